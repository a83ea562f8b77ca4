"""Plug-ins: found by their entry points without being run, allowed, named, chosen among, and never taken silently."""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import forks
import pytest
import torch
from assay.harness.build import ALLOW_VARIABLE, build
from assay.harness.commands import configs as commands
from assay.harness.commands.program import call
from assay.harness.config import ConfigError
from assay.harness.overrides import compose_config
from assay.harness.plugins import CHOOSE, installed
from assay.harness.results.environment import environment

CODE = '''from dataclasses import dataclass
from typing import ClassVar

from assay.methods.attribution.floors import Random


@dataclass(frozen=True)
class Mine(Random):
    """A map of mine."""

    steps: int
    VERSION: ClassVar[int] = 1
'''
Capture = pytest.CaptureFixture[str]


class Site:
    """A folder on Python's path, as site-packages are, into which packages are put by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(
        self, package: str, entry: str = "", *methods: str, code: str = CODE, steps: int = 3, name: str = ""
    ) -> None:
        """A distribution whose entry point is called like its package, or `name`; its conf/ has methods."""
        about = self.folder / f"{package}-1.5.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.5\n")
        (about / "entry_points.txt").write_text(f"[assay.plugins]\n{name or package} = {entry or package}\n")
        for name in methods:
            text = f"# @package method.{name}\n_target_: {package}.methods.Mine\nsteps: {steps}\n"
            write(self.folder / package / "conf" / "method" / f"{name}.yaml", text)
            write(self.folder / package / "methods.py", code)
            write(self.folder / package / "__init__.py", "")


def write(path: Path, text: str) -> None:
    """With the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """On the path for one test; what was imported from it is forgotten."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(ALLOW_VARIABLE, "")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv(CHOOSE, raising=False)
    before = {*sys.modules}
    yield Site(tmp_path)
    for name in {*sys.modules} - before:
        if (getattr(sys.modules[name], "__file__", "") or "").startswith(str(tmp_path)):
            del sys.modules[name]


def said(words: list[str], capsys: Capture) -> str:
    """What a call prints."""
    assert call(words) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def refused(words: list[str], capsys: Capture) -> str:
    """What a call that cannot be run says."""
    assert call(words) == 2
    return capsys.readouterr().err


# What an installed package adds


def test_its_choices_are_there_without_any_option(site: Site, capsys: Capture) -> None:
    """Listed with whose they are, described, composed beside ours, settable, planned; a near name is answered."""
    site.install("theirs", "", "theirs_map")
    assert "of plug-in theirs (theirs 1.5): method theirs_map\n" in said(["ls"], capsys)
    assert "plug-in" not in said(["ls", "model"], capsys)
    text = said(["describe", "theirs_map"], capsys)
    assert "theirs_map.yaml of plug-in theirs (theirs 1.5)" in text and "A map of mine." in text
    words = ["method=[theirs_map,gradcam]", "method.theirs_map.steps=4", "+protocol.smooth.theirs_map=.1"]
    config = compose_config(words)
    assert config.method["theirs_map"].settings == {"_target_": "theirs.methods.Mine", "steps": 4}
    assert "theirs_map " in said(["validate", "method=[theirs_map]", "limit=2"], capsys)
    assert "Did you mean theirs_map" in refused(["plan", "method=[theirs_mp]"], capsys)


def test_the_help_of_run_py_knows_them(site: Site) -> None:
    """Among the choices of its group, without the package being run."""
    site.install("theirs", "", "theirs_map")
    write(site.folder / "theirs/__init__.py", "raise RuntimeError('imported')\n")
    asked = forks.start("--help", environment={"PYTHONPATH": str(site.folder)})
    assert asked.wait() == 0, asked.errors()
    assert re.search(r"^method: .*\btheirs_map\b", asked.output(), re.M)


def test_it_is_not_run_before_it_is_chosen(site: Site, capsys: Capture) -> None:
    """A package that fails when it is imported takes down no command that does not use it; who uses it is told why."""
    site.install("fails", "", "fails_map", code="raise RuntimeError('no licence')\n")
    write(site.folder / "fails/__init__.py", "raise RuntimeError('imported')\n")
    assert "method fails_map" in said(["ls"], capsys)
    assert "gradcam " in said(["validate", "method=[gradcam]", "limit=2"], capsys)
    compose_config(["method=[fails_map]"])
    assert "fails" not in sys.modules
    error = refused(["validate", "method=[fails_map]", "limit=2"], capsys)
    assert "method fails_map: _target_ 'fails.methods.Mine' cannot be imported: " in error and "imported" in error


def test_its_release_is_recorded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every run, also of one that uses nothing of it; without plug-ins there is no such field."""
    site.install("theirs", "", "theirs_map")
    assert environment(torch.device("cpu"))["plugins"] == "theirs 1.5"
    monkeypatch.setenv(CHOOSE, "none")
    assert "plugins" not in environment(torch.device("cpu"))


def test_a_part_of_a_package(site: Site) -> None:
    """`theirs.inner`: its own conf/, and no class of `theirs` beside it."""
    site.install("theirs", "theirs.inner")
    write(site.folder / "theirs/__init__.py", "raise RuntimeError('imported')\n")
    (site.folder / "theirs/inner/conf").mkdir(parents=True)
    (plugin,) = installed()
    assert (plugin.conf, plugin.prefix) == (site.folder / "theirs/inner/conf", "theirs.inner.")
    assert plugin.roots == [site.folder]
    assert "theirs" not in sys.modules


# Which are used


def test_only_those_that_the_environment_names(site: Site, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """None, one, or all; the others' names and classes are unknown again, and an unknown name is answered."""
    site.install("first", "", "first_map")
    site.install("second", "", "second_map")
    (chosen,) = compose_config(["method=[second_map]"]).method.values()
    assert [each.name for each in installed()] == ["first", "second"]
    monkeypatch.setenv(CHOOSE, "first")
    assert "'second_map' is not a method" in refused(["plan", "method=[second_map]"], capsys)
    with pytest.raises(ConfigError, match=r"'second\.methods\.Mine' is outside .* --allow-target"):
        build(chosen)
    monkeypatch.setenv(CHOOSE, "none")
    assert "plug-in" not in said(["ls"], capsys)
    monkeypatch.setenv(CHOOSE, "frist")
    assert "ASSAY_PLUGINS=frist: 'frist' is not a plug-in. Did you mean first" in refused(["ls"], capsys)


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("gone", "there is no package gone"),
        ("single", "single is one file, and no package with conf/"),
        ("empty", "empty has no folder conf"),
        ("empty:Plugin", "its entry point is 'empty:Plugin', and not a package's name alone"),
        ("empty.inner", "empty.inner has no folder conf"),
    ],
)
def test_one_that_is_broken_is_named_and_in_nobodys_way(entry: str, why: str, site: Site, capsys: Capture) -> None:
    """By ls, and by who asks for a name that is not there; everything else works."""
    site.install("broken", entry)
    write(site.folder / "single.py", "raise RuntimeError\n")
    write(site.folder / "empty/__init__.py", "raise RuntimeError\n")
    said_so = f"plug-in broken (broken 1.5) is left out: {why}; install it anew, or pip uninstall broken"
    assert said_so in said(["ls"], capsys)
    assert said_so in refused(["plan", "method=[broken_map]"], capsys)
    assert said_so in refused(["describe", "broken_map"], capsys)
    assert "plug-in" not in said(["validate", "method=[gradcam]", "limit=2"], capsys)


# One name, two owners

BOTH = (
    "rename one, or say which plug-ins are used "
    "(ASSAY_PLUGINS=NAME,NAME: theirs, or their packages'; ASSAY_PLUGINS=none: without any)"
)


def test_a_name_that_two_have_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """Of the project and a plug-in, or of two; commands that do not choose it work, and ls says it."""
    site.install("first", "", "gradcam", "shared_map")
    site.install("second", "", "shared_map", steps=4)
    error = refused(["plan", "method=[gradcam]"], capsys)
    assert f"method gradcam is defined by the project and by plug-in first (first 1.5): {BOTH}" in error
    assert "method gradcam is defined by" in refused(["plan", "method.gradcam.sigma=2"], capsys)
    error = refused(["plan", "method=[center,shared_map]"], capsys)
    assert f"shared_map is defined by plug-in first (first 1.5) and by plug-in second (second 1.5): {BOTH}" in error
    assert "method gradcam is refused: it is defined by the project and by" in said(["ls", "method"], capsys)
    assert compose_config(["method=[center]"]).method.keys() == {"center"}
    monkeypatch.setenv(CHOOSE, "second")
    assert compose_config(["method=[gradcam,shared_map]"]).method["shared_map"].settings["steps"] == 4


def test_two_plugins_of_one_name_are_told_apart_by_their_packages(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """The mend that the refusal names."""
    site.install("first", "", "shared_map", name="example")
    site.install("second", "", "shared_map", steps=4, name="example")
    monkeypatch.setenv(CHOOSE, "example")
    assert BOTH in refused(["plan", "method=[shared_map]"], capsys)
    monkeypatch.setenv(CHOOSE, "second")
    assert compose_config(["method=[shared_map]"]).method["shared_map"].settings["steps"] == 4


def test_a_clash_that_nobody_uses_is_no_failure_of_validate(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """All others are composed, and it is named; where something chooses it, it is."""
    site.install("first", "", "edges")
    few = {"method": ["center", "edges"]}
    monkeypatch.setattr(commands, "groups", lambda folders: few)
    text = said(["validate"], capsys)
    assert text.startswith(
        "1 configs compose\nmethod edges is refused: it is defined by the project and by plug-in first"
    )
    few["experiment"] = ["first_edges"]
    write(
        site.folder / "first/conf/experiment/first_edges.yaml",
        "# @package _global_\ndefaults:\n  - override /method: [edges]\n",
    )
    assert "method edges is defined by" in refused(["validate"], capsys)


def test_a_name_that_an_experiment_chooses_is_refused(site: Site) -> None:
    """The default config chooses gradcam; an experiment of the plug-in's own chooses what it has redefined."""
    site.install("first", "", "gradcam", "edges")
    text = "# @package _global_\ndefaults:\n  - override /method: [edges]\n"
    write(site.folder / "first/conf/experiment/first_experiment.yaml", text)
    with pytest.raises(ConfigError, match="method gradcam is defined by the project and by plug-in first"):
        compose_config([])
    with pytest.raises(ConfigError, match="method edges is defined by the project and by plug-in first"):
        compose_config(["experiment=first_experiment"])


def test_the_same_words_are_no_contradiction(site: Site, tmp_path: Path, capsys: Capture) -> None:
    """A package that is installed and whose folder is given, too; once that is edited, it is refused."""
    site.install("theirs", "", "theirs_map")
    text, own = (tmp_path / "theirs/conf/method/theirs_map.yaml").read_text(), tmp_path / "own"
    write(own / "method/theirs_map.yaml", text)
    words = ["validate", f"--config-dir={own}", "method=[theirs_map]", "limit=2"]
    assert "theirs_map " in said(words, capsys)
    write(own / "method/theirs_map.yaml", text.replace("3", "9"))
    assert f"by plug-in theirs (theirs 1.5) and by --config-dir {own}: {BOTH}" in refused(words, capsys)


def test_a_folder_of_ones_own_cannot_redefine_ours(site: Site, tmp_path: Path, capsys: Capture) -> None:
    """A method, which was ours without a word before; a recipe, too."""
    write(tmp_path / "own/method/gradcam.yaml", "# @package method.gradcam\n_target_: mine.Mine\n")
    write(tmp_path / "own/recipe/cifar_resnet20_seed.yaml", "model: cifar_resnet20\n")
    place = f"--config-dir={tmp_path / 'own'}"
    assert "method gradcam is defined by the project and by --config-dir" in refused(["plan", place], capsys)
    assert os.environ.get(CHOOSE) is None
    error = refused(["train", "cifar_resnet20_seed", place], capsys)
    assert "recipe cifar_resnet20_seed is defined by the project and by --config-dir" in error
