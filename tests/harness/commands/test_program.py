"""The command line of the other command: options in any place, what is refused and with which exit code."""

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from assay.harness.commands import configs, training
from assay.harness.commands.program import call, program

from assay.version import __version__

ROOT = Path(__file__).resolve().parents[3]
COMMANDS = sorted(program.commands)

OWN_CONFIG = """# @package method.mine
_target_: my_methods.Mine
steps: 3
"""
OWN_CODE = '''from dataclasses import dataclass
from typing import ClassVar

from assay.methods.attribution.floors import Random


@dataclass(frozen=True)
class Mine(Random):
    """A map of mine."""

    steps: int = 3
    VERSION: ClassVar[int] = 1
'''

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """80 columns, whatever terminal the tests run in."""
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of configs, with one method in a package beside it that can be imported."""
    (tmp_path / "my_conf" / "method").mkdir(parents=True)
    (tmp_path / "my_conf" / "method" / "mine.yaml").write_text(OWN_CONFIG)
    (tmp_path / "my_methods.py").write_text(OWN_CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("ASSAY_ALLOW_TARGET", "")  # what --allow-target adds to, undone afterwards
    return tmp_path / "my_conf"


# Help and version


@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS)])
def test_help_fits_and_shows_what_every_command_takes(words: list[str], capsys: Capture) -> None:
    """80 columns; --config-dir, --allow-target and --version everywhere."""
    assert call([*words, "--help"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert {"--config-dir", "--allow-target", "--version", "-h,"} <= set(text.split())
    assert "..." not in "".join(text.split("Commands:")[1:]).split("examples:")[0]  # no summary is cut short


def test_the_programs_name_is_the_one_it_was_started_by(capsys: Capture) -> None:
    """In the usage, the examples, and where an error points."""
    call(["--help"], "assay")
    text = capsys.readouterr().out
    assert "Usage: assay " in text and "assay gallery" in text and "assay run --help" in text
    assert "python" not in text
    call(["ls", "--wrong"], "assay")
    assert "(see assay ls --help)" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--version"], ["ls", "--version"], ["--version", "gallery"]])
def test_version(words: list[str], capsys: Capture) -> None:
    """Of the project and of torch, wherever it is asked for."""
    assert call(words) == 0
    assert capsys.readouterr().out.startswith(f"assay {__version__}, torch 2.")


# Options in any place


def said(words: list[str], capsys: Capture) -> str:
    """What a call prints."""
    assert call(words) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_results_before_between_and_after(tmp_path: Path, capsys: Capture) -> None:
    """The same answer; and it is about that folder."""
    orders = [["--results", str(tmp_path), "status"], ["status", "--results", str(tmp_path)]]
    first, *others = [said(words, capsys) for words in (*orders, [f"--results={tmp_path}", "status"])]
    assert str(tmp_path) in first and others == [first, first]


def test_options_between_overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """Before the command, between words and after them: what arrives is the same."""
    seen: list[dict[str, object]] = []
    command = program.commands["gallery"]

    def gallery(**found: object) -> int:
        seen.append(found)
        return 0

    monkeypatch.setattr(command, "callback", gallery)
    for words in (
        ["gallery", "model=scenes_vgg", "--images", "3", "method=[center]"],
        ["--images", "3", "gallery", "model=scenes_vgg", "method=[center]"],
        ["gallery", "model=scenes_vgg", "method=[center]", "--images=3"],
    ):
        assert call(words) == 0, capsys.readouterr().err
    assert seen[0]["words"] == ("model=scenes_vgg", "method=[center]") and seen[0]["images"] == 3
    assert seen == [seen[0]] * 3


def test_a_value_may_be_called_like_a_command(tmp_path: Path, capsys: Capture) -> None:
    """`--results ls status` is about a folder ls."""
    assert str(Path("ls").absolute()) in said(["--results", "ls", "status"], capsys)


def test_options_of_commands_agree_about_values() -> None:
    """In front of a command its name is found by the options of all: one name is a flag everywhere, or nowhere."""
    kinds: dict[str, set[bool]] = {}
    for command in program.commands.values():
        for option in command.params:
            if isinstance(option, click.Option):
                for name in option.opts:
                    kinds.setdefault(name, set()).add(option.is_flag)
    assert {name: found for name, found in kinds.items() if len(found) > 1} == {}


def test_results_only_where_they_are_read() -> None:
    """ls and train read none."""
    takes = {name for name, command in program.commands.items() if "results" in {p.name for p in command.params}}
    assert set(COMMANDS) - takes == {"ls", "train"}
    assert call(["ls", "--results", "x"]) == 2


def test_results_is_an_override_where_a_config_is_composed(capsys: Capture, tmp_path: Path) -> None:
    """Both is refused: which one was meant?"""
    words = ["maps", "method=[center]", "limit=1", "--images", "1", "--format", "npz"]
    assert str(tmp_path / "maps") in said([*words, "--results", str(tmp_path)], capsys)
    assert call([*words, "--results", str(tmp_path), "results=elsewhere"]) == 2
    assert "give one of the two" in capsys.readouterr().err


# Wrong requests


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Missing command"),
        (["stats"], "'stats' is not a command. Did you mean status"),
        (["ls", "--resluts", "x"], "No such option"),
        (["compare", "a"], "Missing argument 'SECOND'"),
        (["ls", "modle"], "'modle' is not a group. Did you mean model"),
        (["describe", "gradcm"], "Did you mean gradcam"),
        (["describe", "lecun"], "nor the beginning of a cell key"),
        (["plan", "modle=x"], "Did you mean model"),
        (["plan", "experiment"], "'experiment' is no override: write KEY=VALUE"),
        (["plan", "limit=0"], "limit=0: give a whole number of at least 1"),
        (["plan", "limit=few"], "limit"),
        (["validate", "method=[gradcm]"], "Did you mean gradcam"),
        (["gallery", "--images", "-1"], "'--images': -1 is not in the range 1<=x<=1000000000"),
        (["gallery", "--images", "few"], "'--images': 'few' is not a valid integer"),
        (["gallery", "--out", "maps.doc"], "--out maps.doc: give a name that ends in .png"),
        (["gallery", "method=[knn]", "metric=[ood]"], "knn scores images and makes no maps"),
        (["maps", "--images", "0"], "'--images': 0 is not in the range"),
        (["maps", "--format", "npy"], "'npy' is not a format of maps. Did you mean npz"),
        (["maps", "--config-dir", "nowhere"], "Directory 'nowhere' does not exist"),
        (["maps", "--allow-target", ""], "give a package's prefix"),
        (["detect", "method=[knn]"], "no image"),
        (["detect", "experiment=ood_embedded", "method=[msp]", "nothing.png"], "nothing.png"),
        (["detect", "experiment=ood_embedded", "--threshold", "high", "x.png"], "--threshold high: give id95"),
        (["table", "rap_table"], "Did you mean rap_table"),
        (["table", "--format", "doc"], "'doc' is not one of 'md', 'csv', 'tex'"),
        (["check", "--baseline", "none.csv"], "no baseline none.csv"),
        (["gc", "--older-than", "-5"], "'--older-than': -5.0 is not in the range x>=0"),
        (["compare", "gradcam", "center"], "'gradcam' is not a method with results"),
        (["report"], "no results below"),
        (["collect", "--results", "file"], "file"),
        (["train", "--networks", "scenes_vg"], "Did you mean scenes_vgg"),
    ],
)
def test_wrong_requests(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Exit code 2, one line on standard error that says what is wrong, nothing on standard output."""
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    assert call(words) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ") and said in shown.err
    assert shown.out == ""


def test_interrupted(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """One line, exit code 130."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(configs, "groups", interrupt)
    assert call(["ls"]) == 130
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "interrupted\n")


def test_other_errors_are_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect of ours keeps its traceback."""

    def fail(*_: object) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr(configs, "groups", fail)
    with pytest.raises(RuntimeError, match="ours"):
        call(["ls"])


# Configs and classes of one's own


def test_own_configs_are_listed_described_and_built(own: Path, capsys: Capture) -> None:
    """--config-dir reaches who lists, describes and composes; --allow-target who builds."""
    place = ["--config-dir", str(own)]
    assert "mine" not in said(["ls", "method"], capsys).replace(",", " ").split()
    assert "mine" in said(["ls", "method", *place], capsys).replace(",", " ").split()
    assert "A map of mine." in said(["describe", "mine", *place], capsys)
    words = ["validate", "method=[mine]", "limit=2"]
    assert call([*words, *place]) == 2 and "--allow-target" in capsys.readouterr().err
    assert "mine" in said([*place, "--allow-target", "my_methods.", *words], capsys)
    assert os.environ["ASSAY_ALLOW_TARGET"] == "my_methods."
    assert call(words) == 2 and "'mine' is not a method" in capsys.readouterr().err


def test_own_configs_in_a_plan_and_in_maps(own: Path, capsys: Capture) -> None:
    """A sweep over them, too."""
    options = ["--config-dir", str(own), "--allow-target=my_methods."]
    text = said(["plan", "method=[mine]", "limit=2", "seed=0,1", "method.mine.steps=4", *options], capsys)
    assert text.count("mine ") == 4 and text.count("# scenes_vgg on scenes") == 2
    folder = own.parent / "maps"
    words = ["maps", "method=[mine]", "limit=1", "--images", "1", "--format", "png", "--out", str(folder)]
    assert str(folder) in said([*words, *options], capsys)
    assert [path.parent.name for path in folder.rglob("*.png")] == ["mine"]


def test_validate_goes_through_the_choices(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """Of list groups and others, without overrides; one that does not compose is named. All of conf/ takes a minute."""
    choices = {"method": ["gradcam", "knn"], "protocol": ["top1"]}
    monkeypatch.setattr(configs, "groups", lambda _: choices)
    assert said(["validate"], capsys) == "3 configs compose\n"
    choices["metric"] = ["gone"]
    assert call(["validate"]) == 2 and "'gone' is not a metric" in capsys.readouterr().err


# Training


def test_networks_to_train(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All by default; several after --networks, as ever; and the drawn data."""
    made: list[tuple[str, int, int, Path]] = []
    monkeypatch.setattr(training, "SIZES", {"train": 3, "val": 2})

    def record(name: str, train: list, val: list, out: Path) -> None:
        made.append((name, len(train), len(val), out))

    monkeypatch.setattr("assay.harness.networks.train.train_embedded", record)
    assert call(["train", "--out", str(tmp_path)]) == 0
    assert made == [(name, 3, 2, tmp_path) for name in ("scenes_vgg", "scenes_resnet", "scenes_vit")]
    made.clear()
    assert call(["train", "--networks", "scenes_resnet", "scenes_vgg"]) == 0
    assert [name for name, *_ in made] == ["scenes_resnet", "scenes_vgg"]
    assert {out for *_, out in made} == {Path("harness/networks/embedded")}


# The process


def test_the_process(tmp_path: Path) -> None:
    """Started by both names: exit codes, quiet when the reader of a pipe has left."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = f"{sys.executable} -m harness ls | head -n 1; echo ${{PIPESTATUS[1]}}; {sys.executable} -m assay ls modle"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout == "compute: auto, gpu, ray, slurm\n0\n"
    assert done.stderr.startswith("error: 'modle' is not a group")
    assert done.returncode == 2
