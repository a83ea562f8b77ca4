"""One name: the folders at the top travel inside the package `assay`, beside anyone's `datasets`."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from test_layout import tracked

from assay.version import __version__

ROOT = Path(__file__).resolve().parents[1]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
FAMILIES = ("harness", "methods", "metrics", "datasets")


# The mapping


def folder(package: str) -> Path:
    """Where a package of the wheel lies in the checkout, by `package-dir`."""
    top, *rest = package.split(".")[1:] or [""]
    return ROOT / Path(SETUPTOOLS["package-dir"].get(f"assay.{top}", "assay"), *rest)


def files(*folders: str) -> set[Path]:
    """Every file below, without what Python leaves there."""
    found = [path for name in folders for path in (ROOT / name).rglob("*") if path.is_file()]
    return {path for path in found if "__pycache__" not in path.parts}


def test_every_folder_with_code_is_a_package() -> None:
    """A new room that is not in pyproject.toml would be missing from the wheel; a removed one would fail the build."""
    folders = {path.parent.relative_to(ROOT) for path in files(*FAMILIES) if path.suffix == ".py"}
    expected = {"assay", "assay.conf", "assay.results"} | {".".join(["assay", *path.parts]) for path in folders}
    assert set(SETUPTOOLS["packages"]) == expected
    assert [name for name in SETUPTOOLS["packages"] if not folder(name).is_dir()] == []


def test_all_data_that_the_code_reads_is_packaged() -> None:
    """Configs, class tables and lists, embedded weights, the papers' figures, the rows behind our tables, the report's
    page."""
    data = files(*FAMILIES, "conf", "results/published", "results/measured")
    expected = {path for path in data if path.suffix != ".py"}
    patterns = [(name, glob) for name, globs in SETUPTOOLS["package-data"].items() for glob in globs]
    packaged = {path for name, glob in patterns for path in folder(name).glob(glob)}
    assert {path.suffix for path in expected} == {".yaml", ".csv", ".safetensors", ".txt", ".css", ".html", ".js"}
    assert packaged == expected


def test_the_version_is_said_alike() -> None:
    """By the package and by the citation."""
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()


def packages_path(site: Path) -> list[str]:
    """`assay.__path__` of the package in a folder."""
    code = "import assay; print(*assay.__path__, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], cwd=site, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_a_checkout_finds_the_folders_beside_the_package() -> None:
    """`assay.harness` is ./harness."""
    assert packages_path(ROOT) == [str(ROOT / "assay"), str(ROOT)]


def test_an_installed_package_takes_nothing_beside_it(tmp_path: Path) -> None:
    """Or `assay.numpy` would be numpy, a second time; a stranger's `harness` beside it changes nothing."""
    shutil.copytree(ROOT / "assay", tmp_path / "assay")
    (tmp_path / "assay" / "harness").mkdir()
    (tmp_path / "harness").mkdir()
    assert packages_path(tmp_path) == [str(tmp_path / "assay")]


# The wheel


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's files and no others: a build in the checkout would leave, and later pack, its leftovers."""
    made = tmp_path_factory.mktemp("sources")
    for path in tracked():
        copy = made / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    return made


def build_wheel(sources: Path, target: Path) -> Path:
    """A wheel of a source tree; needs no registry."""
    options = ["-q", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "-w", target, sources], check=True)
    return next(target.glob("*.whl"))


@pytest.fixture(scope="session")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    return build_wheel(sources, tmp_path_factory.mktemp("wheel"))


def contents(wheel: Path) -> set[str]:
    """Names of the files in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a virtual environment in a user's repository, with the wheel and somebody else's `datasets`.

    The libraries are those of the Python that runs the tests.
    """
    home = tmp_path_factory.mktemp("user")
    subprocess.run(["git", "init", "-q", home], check=True)
    venv.create(home / "venv", with_pip=False)
    site = next((home / "venv").glob("lib/python*/site-packages"))
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    (site / "datasets").mkdir()
    (site / "datasets" / "__init__.py").write_text("def load_dataset(): ...\n")
    python = home / "venv" / "bin" / "python"
    options = ["-q", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "--python", python, "install", *options, wheel], check=True)
    return python.parent


def use(installed: Path, command: str, *words: str, cwd: Path) -> str:
    """What a program of the virtual environment prints."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([installed / command, *words], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_source_distribution_makes_the_same_wheel(sources: Path, wheel: Path, tmp_path: Path) -> None:
    """Nothing that a build needs is left out of it."""
    code = f"from setuptools.build_meta import build_sdist; build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=sources, check=True, capture_output=True)
    shutil.unpack_archive(next(tmp_path.glob("*.tar.gz")), tmp_path, filter="data")
    again = build_wheel(next(tmp_path.glob("assay*/")), tmp_path / "wheel")
    assert contents(again) == contents(wheel)
    assert {name.split("/")[0] for name in contents(wheel)} == {"assay", f"assay_harness-{__version__}.dist-info"}


@pytest.mark.slow
def test_both_datasets_are_imported(installed: Path, tmp_path: Path) -> None:
    """Theirs as `datasets`, ours as `assay.datasets`; the package is the installed one."""
    code = (
        "import assay, datasets, assay.datasets.scenes as s; datasets.load_dataset(); print(assay.__file__, s.__file__)"
    )
    package = next(installed.parent.glob("lib/python*/site-packages")) / "assay"
    said = use(installed, "python", "-c", code, cwd=tmp_path)
    assert said.split() == [str(package / "__init__.py"), str(package / "datasets/scenes.py")]


@pytest.mark.slow
def test_the_other_command_reads_what_travelled(installed: Path, tmp_path: Path) -> None:
    """Configs, the sources' documentation, the papers' figures."""
    assert use(installed, "assay", "ls", cwd=tmp_path) == use(installed, "python", "-m", "assay", "ls", cwd=tmp_path)
    assert "Selvaraju" in use(installed, "assay", "describe", "gradcam", cwd=tmp_path)
    use(installed, "assay", "table", "hedging_table1", cwd=tmp_path)
    assert list(tmp_path.rglob("hedging_table1.md"))


@pytest.mark.slow
def test_the_embedded_benchmark_runs_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    """Two processes, and a second run that finds everything; the user's repository is not taken for Assay's."""
    words = ["run", "experiment=embedded", "limit=8", "compute.shard_size=4", "compute.processes=2"]
    use(installed, "assay", *words, cwd=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    rows = pd.read_csv(tmp_path / "results/tidy/results.csv")
    assert len(rows) > 100
    assert (rows.status == "ok").any()
    runs = pd.read_csv(tmp_path / "results/tidy/runs.csv", dtype=str)
    assert set(runs.assay) == {__version__}
    assert runs.git_sha.isna().all()
    assert re.search(r"\b0 shards computed", use(installed, "assay", *words, cwd=tmp_path))
    assert "gradcam" in use(installed, "assay", "status", cwd=tmp_path)
