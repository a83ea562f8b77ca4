"""Requests that cannot be run: each is refused in one line that says what, which value, and what would do.

A case is the words of a command line, the exit code, and what the message names. Each is given to the command as a
user gives it, in this process, in a folder whose results hold a finished cell; that cell has the same bytes
afterwards, nothing was added to its store, and no code of a config or a file has run.
"""

import errno
import logging
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from assay.harness import console
from assay.harness.build import ALLOW_VARIABLE
from assay.harness.commands.program import call
from assay.harness.config import CONF, ConfigError
from assay.harness.overrides import compose_config
from assay.harness.store import identity
from assay.methods.attribution.floors import Center
from PIL import Image
from safetensors.torch import load_file, save_file

import assay
from assay.console import main as assay_command

REFUSED, FAILED, FINE = 2, 1, 0
GOOD = CONF.parent / "harness/networks/embedded/scenes_vgg.safetensors"
RUN = ["limit=4", "method=[center]", "metric=[pointing_game]", "compute.processes=1", "compute.device=cpu"]
OWNED = "owned"  # what code of a config or a file would make
NO_CODE = "a config may not name any code"
INSIDE = "assay.methods. assay.metrics. assay.datasets. assay.harness.networks. assay.harness.results.sinks."
OUTSIDE = f"is outside {INSIDE}: {NO_CODE}"
TO_FILES = "files are called by names, so give a text of 1 to 100 printable characters"


class Case(NamedTuple):
    """The words of a command and what is said of them. words: of run.py beside RUN, or of another command, whole."""

    name: str
    words: list[str]
    says: str
    by: str = "run"
    more: tuple[str, ...] = ()
    code: int = REFUSED


# An experiment's file by name: what an untrusted config tries.
EXPERIMENTS = {
    "callback": "hydra: {callbacks: {x: {_target_: pandas.read_pickle, filepath_or_buffer: evil.pt}}}",
    "callback_by_reference": "limit: 3\nhydra: {callbacks: '${oc.create:{x: {_target_: os.mkdir, path: owned}}}'}",
    "environment": "hydra: {job: {env_set: {ASSAY_ALLOW_TARGET: os.}}}\nmodel: {_target_: os.mkdir, path: owned}",
    "factory": "hydra: {job_logging: {formatters: {simple: {(): os.mkdir, path: owned}}}}",
    "formatter": "hydra: {job_logging: {formatters: {simple: {class: os.mkdir}}}}",
    "log_file": "hydra: {job_logging: {handlers: {x: {class: logging.FileHandler, filename: owned}}}}",
    "socket": "hydra: {hydra_logging: {handlers: {x: {class: logging.handlers.SocketHandler, host: x, port: 1}}}}",
    "stream": "hydra: {job_logging: {handlers: {console: {stream: 'ext://os.system'}}}}",
    "launcher": "hydra: {launcher: {_target_: os.mkdir}}",
    "sweeper": "hydra: {sweeper: {params: {seed: {_target_: os.mkdir, path: owned}}}}",
    "copies": "hydra: {output_subdir: owned}",
    "fine": "subset_seed: 1",
    "evaluated": "subset_seed: ${eval:1+1}",
    "nul": 'dataset: {name: "a\\0b"}',
    "escaped": "method: {center: {sigma: '\\${oc.create:{_target_: os.mkdir, path: owned}}'}}",
    "python_object": "seed: !!python/object/apply:os.mkdir [owned]",
    "broken": "seed: [1",
    "elsewhere": "dataset: {name: ../../owned}",
}

CASES = [
    # 3a: configs that would run code, whatever the way in
    *(
        Case(f"{name} in an experiment", ["--config-dir=configs", f"experiment={name}"], says)
        for name, says in {
            "callback": f"hydra.callbacks (x): {NO_CODE}",
            "callback_by_reference": "hydra.callbacks",
            "environment": "hydra.job.env_set (ASSAY_ALLOW_TARGET): a config may not set environment variables",
            "factory": "hydra.job_logging.formatters.simple.()=os.mkdir: logging takes what Hydra's own configs name",
            "formatter": "hydra.job_logging.formatters.simple.class=os.mkdir: logging takes",
            "log_file": "hydra.job_logging.handlers.x.filename=owned: logging takes",
            "socket": "hydra.hydra_logging.handlers.x.class=logging.handlers.SocketHandler: logging takes",
            "stream": "hydra.job_logging.handlers.console.stream=ext://os.system: logging takes",
            "launcher": "hydra.launcher._target_=os.mkdir is no launcher of ours: jobs of a sweep run one",
            "sweeper": f"hydra.sweeper.params.seed._target_=os.mkdir: {NO_CODE}",
            "copies": "hydra.output_subdir=owned: copies of a config would overwrite what lies there",
            "evaluated": "subset_seed: Unsupported interpolation type eval",
            "nul": "dataset.name='a\\x00b' holds a character that cannot be printed",
            "escaped": "method.center.sigma=${oc.create:{_target_: os.mkdir, path: owned}}: give a number",
            "python_object": "could not determine a constructor for the tag 'tag:yaml.org,2002:python/object/apply",
            "broken": "while parsing a flow sequence",
            "elsewhere": f"dataset.name=../../owned holds /: {TO_FILES}",
        }.items()
    ),
    Case("callback in a sweep", ["-m", "--config-dir", "configs", "experiment=fine,callback"], "hydra.callbacks"),
    Case("callback by assay run", ["experiment=callback", "--config-dir=configs"], "hydra.callbacks", "assay"),
    Case("callback from Python", ["--config-dir=configs", "experiment=callback"], "hydra.callbacks", "python"),
    Case("callback, planned", ["plan", "experiment=callback", "--config-dir=configs"], "hydra.callbacks", "harness"),
    Case("callback, mapped", ["maps", "experiment=callback", "--config-dir=configs"], "hydra.callbacks", "harness"),
    Case("callback, typed", ["+hydra.callbacks.x={_target_:os.mkdir,path:owned}"], "hydra.callbacks (x)"),
    Case(
        "launcher, typed",
        ["-m", "seed=0,1", "hydra.launcher._target_=os.mkdir"],
        "is no launcher of ours: jobs of",
    ),
    Case("launcher, another", ["-m", "seed=0,1", "hydra/launcher=joblib"], "compute.engine=ray or compute"),
    Case("another primary config", ["--config-name=check"], "--config-name: a run's config is conf/config.yaml"),
    Case("a pickled config", ["--experimental-rerun=evil.pt"], "--experimental-rerun: it reads a pickle"),
    # 3a: a `_target_` in every place where one can stand
    Case(
        "target of the model", ["model._target_=builtins.eval"], f"model scenes_vgg: _target_ 'builtins.eval' {OUTSIDE}"
    ),
    Case("target of the data", ["dataset._target_=os.system"], f"dataset scenes: _target_ 'os.system' {OUTSIDE}"),
    Case("target of a setting", ["++method.center.sigma={_target_:os.mkdir,path:owned}"], OUTSIDE),
    Case("target in a list", ["dataset.objects=[1,{_target_:os.mkdir,path:owned}]"], OUTSIDE),
    Case(
        "target of a method",
        ["+method.mine={_target_:os.mkdir,path:owned}"],
        f"method mine: _target_ 'os.mkdir' {OUTSIDE}",
    ),
    Case("target of a metric", ["+metric.mine._target_=os.mkdir", "+metric.mine.path=owned"], OUTSIDE),
    Case(
        "target of an OOD set",
        ["+ood.mine={_target_:os.mkdir,path:owned,name:x}", "method=[msp]", "metric=[ood]"],
        OUTSIDE,
    ),
    Case(
        "target of a training set",
        ["dataset@train=scenes_train", "train._target_=os.mkdir"],
        OUTSIDE,
        more=("method=[knn]", "metric=[error_detection]"),
    ),
    Case("target of a protocol", ["+protocol._target_=os.mkdir"], "protocol._target_: '_target_' is not a key"),
    Case("target of compute", ["+compute.x={_target_:os.mkdir}"], "compute.x: 'x' is not a key"),
    Case("arguments by place", ["+model._args_=[owned]"], "'_args_' is not a setting of assay.harness.networks"),
    Case("half a call", ["+model._partial_=true"], "'_partial_' is not a setting of assay.harness.networks"),
    Case(
        "through an allowed module",
        ["model._target_=assay.harness.networks.loading.torch.hub.os.mkdir", "+model.path=owned"],
        "(assay.harness.networks.loading.torch.hub.os.mkdir): _target_ 'posix.mkdir' is outside",
    ),
    Case(
        "a function that writes",
        ["model._target_=assay.harness.networks.train.save_weights"],
        "is neither a class nor a function that makes an object of one",
    ),
    # 3a: names that become files
    Case("name of a folder above", ["dataset.name=../../owned"], f"dataset.name=../../owned holds /: {TO_FILES}"),
    Case("name of 300 letters", ["dataset.name=" + "x" * 300], f"is 300 bytes long: {TO_FILES}"),
    Case("no name", ["dataset.name=''"], f"dataset.name='' is empty: {TO_FILES}"),
    Case("name of a network above", ["model.name=a/../../owned"], "model.name=a/../../owned holds .."),
    Case(
        "name of a method",
        ["+method={a/b:{_target_:assay.methods.attribution.floors.Center}}"],
        "method.a/b=a/b holds /",
    ),
    Case("name of a protocol", ["protocol.name=a:b"], "protocol.name=a:b holds :"),
    # 3f: values
    Case("no threads", ["compute.threads=0"], "compute.threads=0: give a whole number of at least 1"),
    Case("too many threads", ["compute.threads=100000"], "compute.threads=100000: give a whole number of at most 1024"),
    Case(
        "nan", ["metric.pointing_game.tolerance_px=nan"], "metric.pointing_game.tolerance_px=nan: give a finite number"
    ),
    Case("infinity", ["dataset.tolerance_px=inf"], "dataset.tolerance_px=inf: give a finite number"),
    Case(
        "a word for a number",
        ["method=[integrated_gradients]", "method.integrated_gradients.steps=abc"],
        "method.integrated_gradients.steps=abc: give a whole number",
    ),
    Case(
        "a word for a layer's layout",
        ["method=[gradcam]", "method.gradcam.layout=x"],
        "layout=x: give one of nchw, nhwc",
    ),
    Case("no layer", ["method=[gradcam]", "method.gradcam.layer=null"], "method.gradcam.layer=null: give a text"),
    Case("a number for a list", ["dataset.objects=3"], "dataset.objects=3: give a list"),
    Case(
        "a tolerance below 0",
        ["metric.pointing_game.tolerance_px=-1"],
        "a pointing tolerance cannot be negative (metric.pointing_game.tolerance_px=-1",
    ),
    Case(
        "a centre of no width", ["method.center.sigma=0"], "method center: sigma=0: give a share of each side, above 0"
    ),
    Case(
        "noise below 0",
        ["method=[smoothgrad]", "method.smoothgrad.noise=-1"],
        "method smoothgrad: noise=-1: give a share of the input's range, 0 or more",
    ),
    Case(
        "a seed of drawing below 0", ["dataset.seed=-1"], "dataset scenes: seed=-1: give a whole number of at least 0"
    ),
    Case("an expression", ["seed=${eval:1+1}"], "seed: Unsupported interpolation type eval"),
    Case(
        "an unset variable", ["limit=${oc.env:ASSAY_NOT_SET}"], "limit: KeyError raised while resolving interpolation"
    ),
    Case("a seed of half", ["seed=1.5"], "seed=1.5: Value '1.5' of type 'float' could not be converted to Integer"),
    Case("a seed in the last job of a sweep", ["-m", "seed=0,-1"], "seed=-1: give a whole number of at least 0"),
    Case("null for a group", ["model=null"], "model=null: ~model leaves it out; name a choice of model: alexnet"),
    Case("several without -m", ["seed=1,2"], "To sweep over it, add --multirun"),
    Case("a key that nobody reads", ["+sed=1"], "sed: 'sed' is not a key. Did you mean seed"),
    Case("a device", ["compute.device=meta"], "compute.device=meta: choose auto, cpu, cuda or cuda:N"),
    Case("no such option", ["--nonsense"], "unrecognized arguments: --nonsense (see run.py --help)"),
    Case(
        "a path of two words", ["dataset.root=/my", "photos"], "'photos' is no override: write KEY=VALUE, with quotes"
    ),
    Case("a path with brackets", ["results=a (b"], "if that is a text, quote it twice: 'results=\"a (b\"'"),
    Case("gallery of -1 images", ["gallery", "--images", "-1"], "'--images': -1 is not in the range", "harness"),
    Case("a folder of configs that is not there", ["--config-dir=nowhere"], "--config-dir nowhere: no folder is there"),
    Case("an allowed package that is none", ["--allow-target", "limit=3"], "--allow-target needs a package's prefix"),
    # where results go
    Case("results in a file", ["results=file"], "results=file: file is a file: give a folder, results=FOLDER"),
    Case("results below a file", ["results=file/x"], "results=file/x: file is a file: give a folder"),
    Case("results nowhere", ["results=''"], "results='': give a folder"),
    Case("results of 300 letters", ["results=" + "x" * 300], "File name too long"),
    Case("plan in a file", ["plan", *RUN, "results=file"], "results=file: file is a file", "harness"),
    Case("status of a file", ["status", "--results", "file"], "results=file: file is a file", "harness"),
    Case("gc of a file", ["gc", "--results", "file"], "results=file: file is a file", "harness"),
    Case("collect from nowhere", ["collect", "--results", "nowhere"], "no results below ", "harness"),
    Case(
        "a baseline that is no table", ["check", "--baseline", "bytes.csv"], "bytes.csv is no table in UTF-8", "harness"
    ),
    Case("no pattern", ["describe", "**"], "'**' is not a config name, nor the beginning of a cell key", "harness"),
    # weights
    Case("weights that are not there", ["model.weights=nowhere.pt"], "weights file 'nowhere.pt' not found (looked at "),
    Case(
        "weights cut short",
        ["model.weights=cut.safetensors"],
        "cut.safetensors is no safetensors file, or a damaged one",
    ),
    Case("weights cut short, torch", ["model.weights=cut.pt"], "cut.pt is no torch file, or a damaged one: copy"),
    Case("no weights in the file", ["model.weights=none.safetensors"], "none.safetensors holds no state dict"),
    Case("an empty file", ["model.weights=empty.pt"], "empty.pt is empty: copy or download it again"),
    Case("a folder", ["model.weights=configs"], "weights 'configs' is a folder"),
    Case("a pickle", ["model.weights=evil.pt"], "evil.pt is a pickle that names code (posix.mkdir), which is not run"),
    Case("a pickle by another name", ["model.weights=evil.safetensors"], "evil.safetensors is no safetensors file"),
    Case(
        "weights of other shapes",
        ["model.weights=shapes.safetensors"],
        "features.0.weight is [1, 3, 3, 3], and should be [16",
    ),
    Case(
        "weights of five classes",
        ["model.weights=five.safetensors"],
        "classifier.3.weight is [5, 96], and should be [11, 96]",
    ),
    Case("weights of a wrapper", ["model.weights=wrapped.safetensors"], "All those names begin with 'backbone.'"),
    Case("another digest", ["model.sha256=00000000"], "expected 00000000: another file, or a damaged one"),
    Case("a text for weights", ["model.weights=[a]"], "model.weights=['a']: give a text or null"),
    Case(
        "1000 classes on 11 outputs",
        [
            "dataset=folder",
            "dataset.root=images",
            "dataset.wnids=thousand.txt",
            "dataset.transform.size=64",
            "dataset.transform.resize=64",
        ],
        "folder has 1000 classes (class0, class1, class2, class3, class4, ...) and scenes_vgg 11 outputs",
    ),
    Case(
        "an image below the least size",
        ["dataset=folder", "dataset.root=images", "dataset.transform.size=4", "dataset.transform.resize=4"],
        "model scenes_vgg cannot be run on images of folder",
    ),
    Case(
        "a network of no classes",
        ["model=resnet18", "model.weights=null", "+model.classes=0"],
        "classes=0: give the number of outputs",
    ),
]


# The folder in which they are given


class Evil:
    """A pickle of it makes a folder when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (OWNED,)


def write_weights() -> None:
    good = load_file(GOOD)
    Path("cut.safetensors").write_bytes(GOOD.read_bytes()[:-1000])
    torch.save(good, "good.pt")
    Path("cut.pt").write_bytes(Path("good.pt").read_bytes()[:5000])
    save_file({}, "none.safetensors")
    Path("empty.pt").write_bytes(b"")
    torch.save({"state_dict": Evil()}, "evil.pt")
    Path("evil.safetensors").write_bytes(pickle.dumps(Evil()))
    save_file({name: value[:1].clone() for name, value in good.items()}, "shapes.safetensors")
    five = {name: value[:5].clone() if value.shape[0] == 11 else value for name, value in good.items()}
    save_file(five, "five.safetensors")
    save_file({f"backbone.{name}": value for name, value in good.items()}, "wrapped.safetensors")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory, with bad files of all kinds and a folder of results with a finished cell."""
    folder, before = tmp_path_factory.mktemp("requests"), Path.cwd()
    os.chdir(folder)
    try:
        Path("file").write_text("no folder")
        Path("bytes.csv").write_bytes(b"\xff\xfe\x00")
        Path("configs/experiment").mkdir(parents=True)
        for name, text in EXPERIMENTS.items():
            Path(f"configs/experiment/{name}.yaml").write_text(f"# @package _global_\n{text}\n")
        Path("images/class0").mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (64, 64), (90 * number,) * 3).save(f"images/class0/{number}.png")
        Path("images/thousand.txt").write_text("\n".join(f"class{number}" for number in range(1000)))
        write_weights()
        code, said = run(RUN)
        assert code == FINE, said
        yield folder
    finally:
        os.chdir(before)


# How they are given


def run(words: list[str], command: Callable[[], None] = console.evaluate, name: str = "run.py") -> tuple[int, str]:
    """Exit code and standard error of run.py, as far as it is about this call."""
    handlers = logging.getLogger().handlers[:]  # Hydra's write to a stream that pytest closes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *words])
        patch.setattr(console, "failures", [])
        patch.setenv(ALLOW_VARIABLE, "")
        with Captured() as said, pytest.raises(SystemExit) as end:
            command()
    logging.getLogger().handlers[:] = handlers
    assert isinstance(end.value.code, int)
    return end.value.code, said.text


class Captured:
    """Standard error, without bars of progress."""

    def __enter__(self) -> "Captured":
        self.patch = pytest.MonkeyPatch()
        self.lines: list[str] = []
        self.patch.setattr(sys, "stderr", self)
        return self

    def __exit__(self, *_: object) -> None:
        self.patch.undo()

    def write(self, text: str) -> int:
        self.lines.append(text)
        return len(text)

    def flush(self) -> None:
        """Nothing is kept back."""

    @property
    def text(self) -> str:
        return "".join(text for text in self.lines if "image/s" not in text and text != "\r").strip()


def from_python(words: list[str]) -> tuple[int, str]:
    """The same code for the error that Python raises."""
    try:
        assay.evaluate("scenes_vgg", "scenes", ["center"], ["pointing_game"], overrides=words)
    except ConfigError as error:
        return REFUSED, f"error: {error}"
    return FINE, ""


def other_command(words: list[str]) -> tuple[int, str]:
    with Captured() as said:
        code = call(words)
    return code, said.text


GIVEN: dict[str, Callable[[list[str]], tuple[int, str]]] = {
    "run": lambda words: run([*RUN, *words]),
    "assay": lambda words: run(["run", *RUN, *words], assay_command, "assay"),
    "harness": other_command,
    "python": from_python,
}


def store(place: Path) -> dict[str, bytes]:
    """Every file of the store that tells something, by its name."""
    files = [path for path in (place / "results" / "store").rglob("*") if path.is_file() and path.name != "changed"]
    return {str(path.relative_to(place)): path.read_bytes() for path in files}


def test_the_cases_are_many_and_named() -> None:
    """Each has a name of its own."""
    assert len(CASES) >= 25
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_refused(case: Case, place: Path) -> None:
    """In one line, with exit code 2; earlier work is as it was, and nothing has run."""
    before = store(place)
    assert any(name.endswith(".parquet") for name in before)
    code, said = GIVEN[case.by]([*case.more, *case.words])
    assert code == case.code, said
    assert said.startswith("error: ") and case.says in said, said
    assert "Traceback" not in said and len(said.splitlines()) == 1
    assert store(place) == before
    assert not list(place.rglob(OWNED)) and not (place.parent / OWNED).exists()


def test_a_good_request_is_not_refused(place: Path) -> None:
    """What stands beside the bad values: variables of the environment, options after overrides, a folder of configs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSAY_SOME_LIMIT", "4")
        words = [*RUN, "limit=${oc.env:ASSAY_SOME_LIMIT}", "--config-dir", "configs", "hydra.verbose=false"]
        assert run(words) == (FINE, "")
    assert run([*RUN, "hydra/job_logging=none", "hydra/hydra_logging=none", "-m", "seed=0,0"])[0] == FINE


def test_a_network_of_a_hub_keeps_its_name(place: Path) -> None:
    """OWNER/NAME is no folder: pictures and maps are called by it, percent-encoded."""
    assert compose_config(["model=huggingface"]).model.name == "microsoft/resnet-50"
    words = ["maps", *RUN, "model.name=owner/net", "--images", "1", "--format", "npz"]
    assert other_command(words) == (FINE, "")
    assert [path.name for path in (place / "results" / "maps").iterdir()] == ["owner%2Fnet-scenes"]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"results": "file"}, "results=file: file is a file: give a folder"),
        ({"results": ""}, "results='': give a folder"),
        ({"overrides": ["--help"]}, "override '--help': write KEY=VALUE, or --config-dir=FOLDER"),
        ({"overrides": ["--experimental-rerun=evil.pt"]}, "override '--experimental-rerun=evil.pt': write KEY=VALUE"),
        ({"overrides": [3]}, "override 3: give texts"),
        ({"methods": {"a/b": Center()}}, f"method.a/b=a/b holds /: {TO_FILES}"),
        ({"tolerance_px": float("nan")}, "dataset.tolerance_px=nan: give a finite number"),
    ],
)
def test_it_is_refused_from_python(asked: dict[str, Any], says: str, place: Path) -> None:
    """What only Python can ask for."""
    before = store(place)
    with pytest.raises((ConfigError, TypeError)) as caught:
        assay.evaluate(
            **{"model": "scenes_vgg", "dataset": "scenes", "methods": "center", "metrics": "pointing_game"} | asked
        )
    assert says in str(caught.value) and store(place) == before


# What happens while it runs


def test_the_environment_allows_what_a_config_cannot(place: Path) -> None:
    """The flag of an earlier call does not last, and a config's `allow_target` is no flag."""
    words = ["model._target_=fractions.Fraction", "+model.numerator=3"]
    assert OUTSIDE in GIVEN["run"]([*words, "+model.allow_target=fractions."])[1]
    assert OUTSIDE not in GIVEN["run"]([*words, "--allow-target=fractions."])[1]
    assert OUTSIDE in GIVEN["run"](words)[1]


def test_torchvision_that_does_not_fit(place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is imported beside a torch without CUDA and raises: the message names the pair that fits."""
    (tmp_path / "torchvision").mkdir()
    broken = "raise RuntimeError('operator torchvision::nms does not exist')"
    (tmp_path / "torchvision" / "__init__.py").write_text(broken)
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = store(place)
    code, said = GIVEN["run"](["model=resnet18", "model.weights=null"])
    assert code == REFUSED and store(place) == before
    assert "torchvision cannot be imported beside torch" in said and "torchvision::nms does not exist" in said
    assert "pip install torch==2.14.0 torchvision==0.29.2" in said


@pytest.mark.parametrize("results", ["/proc/assay", "sealed"])
def test_results_that_cannot_be_written(results: str, place: Path) -> None:
    """A folder that cannot be made, or not be written (root may write anywhere: skipped there)."""
    if results == "/proc/assay" and not Path("/proc/self").exists():
        pytest.skip("no /proc here")
    if results == "sealed":
        (place / results).mkdir(mode=0o555)
        if os.access(place / results, os.W_OK):
            pytest.skip("root writes into a folder that is sealed")
    before = store(place)
    code, said = GIVEN["run"]([f"results={results}"])
    assert code == REFUSED and store(place) == before
    assert f"error: results={results}: nothing can be written there" in said and "give another folder" in said


@pytest.mark.parametrize("writes", [0, 2])
def test_a_full_disk(writes: int, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some files have been written: the next one is named, none is half there, and the same command resumes."""
    words, before, seen = ["method=[edges]", f"seed={writes}"], store(place), list[int]()
    synchronise = os.fsync

    def full(file: int) -> None:
        seen.append(file)
        if len(seen) > writes:
            raise OSError(errno.ENOSPC, "No space left on device")
        synchronise(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        code, said = GIVEN["run"](words)
    assert code == FAILED and len(seen) == writes + 2  # the next file, and the note of what ended the job
    assert said.startswith("error: [Errno 28] No space left on device: 'results/store/")
    assert "; what is finished is kept: the same command resumes\nnot kept for status: OSError: [Errno 28]" in said
    after = store(place)
    assert {name: after.get(name) for name in before} == before
    assert not [name for name in after if name.endswith(".tmp")]
    assert GIVEN["run"](words)[0] == FINE


def test_a_store_of_another_version(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is left alone and named, and what is asked for is computed beside it."""
    with monkeypatch.context() as patch:
        patch.setattr(identity, "SCHEMA", 1)
        assert GIVEN["run"](["results=old"])[0] == FINE
    old = {path: path.read_bytes() for path in (place / "old" / "store").rglob("*") if path.is_file()}
    assert GIVEN["run"](["results=old"])[0] == FINE
    assert all(path.read_bytes() == data for path, data in old.items() if path.name != "changed")
    assert len(list((place / "old" / "store").glob("*/cell.json"))) == 2
    assert other_command(["status", "--results", "old"])[0] == FINE
