"""Every command of the README, the pages and `run.py --help` is run as it stands, on a few images.

Here those that compute: `python run.py`, `assay run` and `torchrun`; the other command's are in test_examples.py. A
page's blocks that begin with a file's name are that file; folders `data` and `weights` hold what a page says that one
has.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import forks
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from plugin_site import install_example
from safetensors.torch import save_file

ROOT = forks.ROOT
SHARED = ROOT.parent / "shared"
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")] + sorted((ROOT / "docs").rglob("*.md"))
SETUP = ("pip ", ".ci/run", ".venv/bin/python -m pytest", "python -m harness ", "assay ")  # what is not run here
LIMITS = ["limit=4", "compute.device=cpu", "compute.processes=1"]
SLOW = re.compile(r"resnet50|^python run\.py experiment=\w+$")  # a whole experiment takes up to ten seconds
RUNS = ("python run.py", "assay run", r"torchrun --nproc-per-node \d+ (?:-m assay run|run\.py)")


class Command(NamedTuple):
    """A line of a page: what is exported for it, and its words."""

    page: Path
    environment: dict[str, str]
    text: str

    @property
    def run_words(self) -> list[str] | None:
        """What run.py is given, if this command runs it."""
        found = re.match(rf"(?:{'|'.join(RUNS)})(?=\s|$)", self.text)
        return shlex.split(self.text[found.end() :]) if found else None


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Language and text of its fenced blocks."""
    yield from re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.M | re.S)


def commands(page: Path) -> Iterator[Command]:
    """Lines of shell, continued ones joined, without remarks; `NAME=VALUE` lines stand for what follows them."""
    for language, text in blocks(page):
        if language not in ("", "bash"):
            continue
        variables: dict[str, str] = {}
        for line in text.replace("\\\n", " ").splitlines():
            bare = re.sub(r"(^|\s+)# .*", "", line).strip()
            for name, value in variables.items():
                bare = bare.replace(f"${name}", value)
            if assigned := re.fullmatch(r"(\w+)=(\S+)", bare):
                variables[assigned[1]] = assigned[2]
            elif bare:
                yield _command(page, bare)


def _command(page: Path, line: str) -> Command:
    environment = {}
    while found := re.match(r"([A-Z_]+)=(\S+)\s+", line):
        environment[found[1]], line = found[2], line[found.end() :]
    return Command(page, environment, line)


def help_commands() -> Iterator[Command]:
    """The examples of `run.py --help`: the command, then two or more blanks, then what it does."""
    path = ROOT / "conf/config.yaml"
    header = OmegaConf.load(path).hydra.help.header
    for line in re.findall(r"^  (python run\.py.*)$", header, re.M):
        yield Command(path, {}, re.split(r"\s{2,}", line)[0])


def in_sentences(page: Path) -> Iterator[Command]:
    """Commands within a page's text."""
    for text in re.findall(
        r"`(python run\.py [^`]+)`", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    ):
        yield Command(page, {}, text)


def small(words: Sequence[str]) -> list[str]:
    """The words with limits on what is computed; equal ones are one request."""
    validated = any(word.startswith(("experiment=errors", "experiment=failure")) for word in words)
    fitted = validated or any(word.startswith(("experiment=ood", "dataset@train")) for word in words)
    fewer_sets = {"experiment=ood_embedded": "scenes_noise", "experiment=failure_embedded": "corrupted_noise"}
    sets = [f"ood=[scenes_shapes,{fewer_sets[word]}]" for word in words if word in fewer_sets]
    default = not any(word.startswith(("method=", "experiment=")) for word in words)
    steps = ["method.integrated_gradients.steps=4"] * default
    fewer = [*LIMITS, *["train.limit=60"] * fitted, *["validation.limit=20"] * validated, *sets, *steps]
    return [*(word for word in words if not word.startswith("limit=")), *fewer]


EVERY = [*help_commands(), *(c for page in PAGES for c in (*commands(page), *in_sentences(page)))]
TO_RUN = list({frozenset(small(words)): c for c in EVERY if (words := c.run_words) is not None}.values())
LAUNCHED = list({c.text: c for c in EVERY if c.text.startswith("torchrun")}.values())


# What a page's reader has


def weights_of(architecture: str, classes: int) -> Callable[[Path], None]:
    """An untrained torchvision network's file."""

    def make(path: Path) -> None:
        from torchvision import models

        save_file(models.get_model(architecture, num_classes=classes).state_dict(), path)

    return make


def densenet(path: Path) -> None:
    """The trained one if it is here, else an untrained one: the command is the same."""
    from assay.harness.networks.cifar import CifarDenseNetBC

    trained = SHARED / "weights/cifar10-densenet_bc100.safetensors"
    if trained.is_file():
        path.symlink_to(trained)
    else:
        save_file(CifarDenseNetBC(10).state_dict(), path)


def own_network(path: Path) -> None:
    """What `my_models.py` of the page reads."""
    layers = torch.nn.ModuleDict(
        {
            "stem": torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3)),
            "stage": torch.nn.Sequential(torch.nn.Conv2d(16, 32, 3)),
            "fc": torch.nn.Linear(32, 11),
        }
    )
    save_file(layers.state_dict(), path)


def photographs(folder: Path) -> None:
    """Two, with the boxes that the page shows."""
    (table,) = [text for _, text in blocks(ROOT / "docs/how-to/own-dataset.md") if text.startswith("image,class,")]
    (folder / "photos").mkdir(parents=True)
    (folder / "boxes.csv").write_text(table)
    (folder / "classes.txt").write_text("polar bear\ngrey owl\n")  # in the order of the outputs
    for name in ("a", "b"):
        Image.new("RGB", (360, 240), "olive").save(folder / f"photos/{name}.jpg")


def unknown(folder: Path) -> None:
    """Photographs without labels."""
    folder.mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (50, 40), (60 * number, 90, 30)).save(folder / f"{number}.jpg")


def cells(folder: Path) -> None:
    """Four files of the page's format."""
    folder.mkdir()
    for number in range(4):
        image = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
        np.savez(folder / f"{number}.npz", image=image, sick=number % 2, box=[10, 20, 40, 50])


MADE: dict[str, Callable[[Path], None]] = {
    "weights/densenet_bc100.safetensors": densenet,
    "weights/animals.safetensors": weights_of("resnet18", 2),
    "weights/mine.safetensors": own_network,
    "data/photos": photographs,
    "data/cells": cells,
    "data/unknown": unknown,
}
SHARED_FILES = {
    "weights/resnet50.safetensors": "weights/imagenet-resnet50.safetensors",
    "data/imagenet": "data/imagenet",
    "data/cifar10": "data/cifar10",
}
IMPLIED = {"experiment=imagenet_boxes": ["data/imagenet"], "experiment=ood_cifar10": ["data/cifar10"]}
IMPLIED["dataset=cifar10_parquet"] = IMPLIED["experiment=ood_cifar10"]


def mentioned(command: Command, files: str) -> set[str]:
    """Files below `data` and `weights` that it reads, by its own words, the page's configs or the presets."""
    words = command.run_words or []
    said = set(re.findall(r"\b(?:data|weights)/[\w.]+", f"{command.text} {files}"))
    implied = {name for word in words for name in IMPLIED.get(word, [])}
    return said | implied


def lay_out(command: Command, place: Path) -> None:
    """The page's own files, and what they and the command read; skips a command of an engine that is not here."""
    for engine in {"compute=ray", "compute=slurm"} & set(command.run_words or ()):
        pytest.skip(f"{engine}: tests/campaigns/test_engines.py runs the engines, where they are")
    own = {}
    for language, text in blocks(command.page):
        if language in ("python", "yaml") and (named := re.match(r"# ([\w/]+\.(?:py|yaml))\n", text)):
            own[named[1]] = text[named.end() :]
    own = own if "--config-dir" in command.text else {}
    own |= {f"my_conf/{name}": text for name, text in _config_in_words(command)}
    for name, text in own.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    if "docs/examples/" in command.text:
        (place / "docs").symlink_to(ROOT / "docs")
    elif "example_" in command.text:
        install_example(place / "site")
    for name in mentioned(command, "".join(own.values())):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        if name in MADE:
            MADE[name](place / name)
        elif not (SHARED / SHARED_FILES[name]).exists():
            pytest.skip(f"{name} is not here: {SHARED / SHARED_FILES[name]}")
        else:
            (place / name).symlink_to(SHARED / SHARED_FILES[name])


def _config_in_words(command: Command) -> Iterator[tuple[str, str]]:
    """A config that a page gives in a sentence: with `LINE` and `LINE` in `my_conf/NAME.yaml`."""
    if "--config-dir" in command.text:
        for first, second, name in re.findall(
            r"with `([^`]+)` and `([^`]+)` in `my_conf/([^`]+)`", command.page.read_text()
        ):
            yield name, f"{first}\n{second}\n"


def name_of(command: Command) -> str:
    """For the list of tests."""
    return f"{command.page.stem}: {command.text}"


def marked(command: Command) -> object:
    """Those of a large network are left out of the quick tests."""
    return pytest.param(command, id=name_of(command), marks=[pytest.mark.slow] * bool(SLOW.search(command.text)))


@pytest.mark.parametrize("command", [marked(each) for each in TO_RUN])
def test_it_runs(command: Command, tmp_path: Path) -> None:
    """Exit code 0, and a table with numbers, or none where only a plan or help is asked for."""
    if sink := re.search(r"sink=\[(\w+)\]", command.text):
        pytest.importorskip(sink[1], reason="needs: pip install 'assay-harness[sinks]'")
    lay_out(command, tmp_path)
    assert command.run_words is not None
    environment = {"PYTHONPATH": "site", **command.environment}  # where `lay_out` puts what a page has had installed
    forked = forks.start(*small(command.run_words), environment=environment, place=tmp_path)
    assert forked.wait() == 0, forked.output() + forked.errors()
    only_says = {"dry_run=true", "--help"} & set(command.run_words)
    assert (tmp_path / "results/tidy/results.csv").exists() != bool(only_says)


@pytest.mark.slow
@pytest.mark.parametrize("command", LAUNCHED, ids=name_of)
def test_torchrun_itself(command: Command, tmp_path: Path) -> None:
    """Two processes share the shards of one run."""
    text = command.text.replace(" run.py", f" {ROOT / 'run.py'}")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    words = [*shlex.split(text), "limit=4", "compute.shard_size=2"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results/tidy/results.csv").exists()


def test_every_command_is_of_a_known_kind() -> None:
    """It runs here, or it is the other command's, a target of the Makefile, or an installation's."""
    targets = set(re.findall(r"^([\w-]+):.*## ", (ROOT / "Makefile").read_text(), re.M))
    for command in EVERY:
        word, *rest = command.text.split()
        if word == "make":
            assert rest[0] in targets, command
        elif command.run_words is None:
            assert command.text.startswith(SETUP), command


def test_commands_were_found() -> None:
    """On every page that has some, of every kind."""
    pages = {command.page.name for command in TO_RUN}
    assert pages >= {"README.md", "config.yaml", "own-model.md", "own-method.md", "own-dataset.md", "detectors.md"}
    assert pages >= {"own-metric.md", "plugins.md"}
    assert len(TO_RUN) >= 20
    assert not [command.text for command in EVERY if "..." in command.text]
