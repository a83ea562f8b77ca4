"""Every example of `--help`, the README and the how-to pages is run as it stands, on a few images."""

import re
import shlex
from pathlib import Path

import pytest
from assay.harness import launch
from assay.harness.commands.program import call, program
from assay.harness.overrides import compose_config
from PIL import Image
from plugin_site import forget_example, install_example

ROOT = Path(__file__).resolve().parents[3]
Capture = pytest.CaptureFixture[str]
PROGRAM = "python -m harness "
FEW = ["limit=4", "compute.device=cpu", "compute.processes=1"]
TWO = ["method=[msp,energy]", "ood=[scenes_noise]"]
FEW_OF_EACH = [*FEW, "train.limit=60"]  # of experiments with a training set
SLOW = re.compile(r"train\b|.*resnet50|export\b")
SHARED = ROOT.parent / "shared"
SETS = ("dataset=cifar10_jpeg_test5k", "dataset@train=cifar10_jpeg_train", "dataset@validation=cifar10_jpeg_val")
SHORT = [*SETS, "recipe.epochs=1", "train.limit=64", "validation.limit=20", "limit=20", "compute.device=cpu"]
OF_RESNET50 = {
    "data/imagenet": "data/imagenet",
    "weights/resnet50.safetensors": "weights/imagenet-resnet50.safetensors",
}


def in_code(text: str) -> set[str]:
    """What follows the program's name, or `assay`, on lines of their own, without remarks."""
    lines = re.findall(rf"^\s*(?:{PROGRAM}|assay (?!run\b))(.*)$", text, re.M)
    return {line.split("  #")[0].strip() for line in lines}


def in_table(text: str) -> set[str]:
    """The first column of the README's table of commands."""
    rows = text.split(f"| `{PROGRAM}...` | |\n|---|---|\n")[1].split("\n\n")[0].splitlines()
    return {command for row in rows for command in re.findall(r"`([^`]+)`", row.split(" | ")[0])}


def help_text() -> str:
    """What `--help` prints."""
    context = program.make_context("python -m harness", ["ls"])
    return program.get_help(context)


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted(
    in_code(help_text()) | in_table(PAGES[0].read_text()) | {e for page in PAGES for e in in_code(page.read_text())}
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with results of two methods and two detectors, where the gate looks for them too, a baseline of them,
    and photographs."""
    folder = tmp_path_factory.mktemp("examples")
    for model in ("scenes_resnet", "scenes_vgg"):
        detectors = ["experiment=ood_embedded", f"model={model}", *TWO, f"results={folder / 'results'}"]
        assert launch.run(compose_config([*FEW, *detectors]), []) == 0
    chosen = ["method=[gradcam,center]", "metric=[pointing_game]", f"results={folder / 'results'}"]
    assert launch.run(compose_config([*FEW, *chosen]), []) == 0
    (folder / "results/check").symlink_to(folder / "results")
    baseline = folder / "results/baselines/embedded.csv.gz"
    update = ["check", "--update", "--reason", "new", "--results", str(folder / "results")]
    assert call([*update, "--baseline", str(baseline)]) == 0
    (folder / "photos").mkdir()
    for name in ("photo.jpg", "photos/a.jpg"):
        Image.new("RGB", (80, 60), "teal").save(folder / name)
    install_example(folder / "site")
    return folder


def few(words: list[str]) -> list[str]:
    """Overrides that keep an example small, where it composes a config."""
    if words[0] == "train" and len(words) > 1:
        return SHORT
    if words[0] == "rank":  # it reads what is there, of these images
        return [*FEW, *TWO] if "experiment=ood_embedded" in words else []
    if not any(parameter.name == "words" for parameter in program.commands[words[0]].params):
        return []
    return FEW_OF_EACH if "experiment=ood_embedded" in words else FEW


def marked(example: str) -> object:
    """Slow ones are left out of the quick tests."""
    return pytest.param(example, marks=[pytest.mark.slow] if SLOW.match(example) else [])


def lay_out_shared(place: Path) -> None:
    """The photographs and the network that the README's example of a gallery reads."""
    for name, shared in OF_RESNET50.items():
        if not (SHARED / shared).exists():
            pytest.skip(f"{name} is not here: {SHARED / shared}")
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).symlink_to(SHARED / shared)


@pytest.mark.parametrize("example", [marked(each) for each in EXAMPLES])
def test_it_runs(
    example: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 0, and it says something."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("COLUMNS", "80")
    words = shlex.split(example)
    if "resnet50" in example:
        lay_out_shared(place)
    if "example_" in example:  # as the page has had it installed
        monkeypatch.syspath_prepend(str(place / "site"))
        forget_example()
    if sink := re.search(r"sink=\[(\w+)\]", example):
        pytest.importorskip(sink[1], reason="needs: pip install 'assay-harness[sinks]'")
    if example.startswith("train "):
        if not (SHARED / "data/cifar10").is_dir():
            pytest.skip(f"no images of CIFAR-10 here: {SHARED / 'data/cifar10'}")
        monkeypatch.setenv("ASSAY_DATA", str(SHARED / "data"))
    assert call([*words, *few(words)]) == 0, capsys.readouterr().err
    lines = capsys.readouterr().out.splitlines()
    assert lines
    if words[0] != "describe" and "--format" not in words:  # files, printed as they are
        assert max((len(line) for line in lines if str(place) not in line), default=0) <= 80


def test_the_examples_were_found() -> None:
    """In the help, on the pages and in the table; each command has one."""
    assert {"compare gradcam center", "check results results", "status"} <= set(EXAMPLES)
    assert {example.split()[0] for example in EXAMPLES} == set(program.commands)
    assert not [example for example in EXAMPLES if "..." in example]
