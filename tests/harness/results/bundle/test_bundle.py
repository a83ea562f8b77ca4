"""Results as one file: what is in it, that it is the same each time, and what must not be in it."""

import hashlib
import io
import platform
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from assay.harness import launch
from assay.harness.commands.program import call
from assay.harness.config import CONF, ConfigError
from assay.harness.overrides import compose_config
from assay.harness.results.bundle import hiding
from assay.harness.results.bundle.readme import commands
from assay.harness.results.tables import files as tables
from assay.harness.store.store import CellStore

RUN = ["method=[gradcam,center]", "metric=[pointing_game]", "limit=4", "compute.processes=1"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run whose command line holds a path."""
    made = tmp_path_factory.mktemp("somebody") / "results"
    words = [*RUN, f"results={made}"]
    assert launch.run(compose_config(words), words) == 0
    return made


@pytest.fixture(scope="module", autouse=True)
def few_tables() -> Iterator[None]:
    """All take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "names", lambda: ["embedded_localization", "hedging_table1"])
        yield


def exported(results: Path, path: Path, *options: str) -> dict[str, bytes]:
    """Files of a bundle."""
    assert call(["export", str(path), *options, "--results", str(results)]) == 0
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name.removeprefix("assay-results/"): archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def first(results: Path) -> Path:
    """A bundle's file."""
    exported(results, results.parent / "first.zip")
    return results.parent / "first.zip"


@pytest.fixture(scope="module")
def held(first: Path) -> dict[str, bytes]:
    """What is in it."""
    with zipfile.ZipFile(first) as archive:
        return {name.removeprefix("assay-results/"): archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def blind(results: Path) -> dict[str, bytes]:
    """A bundle for reviewers, with samples."""
    return exported(results, results.parent / "blind.zip", "--anonymous", "--samples")


def test_a_bundle_holds_what_a_supplement_needs(results: Path, held: dict[str, bytes]) -> None:
    """Rows as in the folder, the config of each run, versions; checksums are right; the README names all and how."""
    (record,) = pd.read_csv(results / "tidy/runs.csv")["record"].unique()
    assert set(held) == {
        *("README.md", "SHA256SUMS", "report/index.html", f"configs/{record}.yaml"),
        *("results/results.csv", "results/results.parquet", "results/runs.csv"),
        *("environment/requirements.txt", "environment/environment.json"),
    }  # no table: those that are filled from what travels with the project are somebody else's
    for line in held["SHA256SUMS"].decode().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256(held[name]).hexdigest() == digest
    assert len(held["SHA256SUMS"].splitlines()) == len(held) - 1
    assert held["results/results.csv"] == (results / "tidy/results.csv").read_bytes()
    assert held["results/results.parquet"] == (results / "tidy/results.parquet").read_bytes()
    assert b"torch==" in held["environment/requirements.txt"]
    readme = held["README.md"].decode()
    command = "python run.py 'method=[gradcam,center]' 'metric=[pointing_game]' limit=4 compute.processes=1 "
    command += "results=PATH/results"
    assert command in readme and "samples/" not in readme and "tables/" not in readme
    assert held[f"configs/{record}.yaml"].decode().startswith(f"# {command}\n")
    assert b"tolerance" in held[f"configs/{record}.yaml"]


def test_the_same_results_give_the_same_bytes(results: Path, first: Path, tmp_path: Path) -> None:
    """Also at another time, under another name."""
    exported(results, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == first.read_bytes()


def test_only_tables_with_numbers_of_these_results(tmp_path: Path) -> None:
    """The kept rows of one table as results: that table, in each form."""
    (tmp_path / "tidy").mkdir()
    shutil.copy(CONF.parent / "results/measured/embedded_localization.csv", tmp_path / "tidy/results.csv")
    made = dict(tables.own_tables(tmp_path))
    assert set(made) == {f"embedded_localization.{kind}" for kind in ("md", "csv", "tex")}
    assert all(made.values()) and sorted(path.name for path in tmp_path.iterdir()) == ["tidy"]


def test_nothing_says_where_and_for_the_blind_who(
    results: Path, held: dict[str, bytes], blind: dict[str, bytes]
) -> None:
    """No file holds the folder, the home or (anonymous) the host and the commit; PATH stands for folders."""
    host, runs = platform.node(), pd.read_csv(results / "tidy/runs.csv")
    for files, is_blind in ((held, False), (blind, True)):
        texts = b"".join(data for name, data in files.items() if not name.endswith(".parquet"))
        assert str(results.parent).encode() not in texts and f"{Path.home()}/".encode() not in texts
        assert b"PATH/results" in files["results/runs.csv"]
        columns = set(pd.read_csv(io.BytesIO(files["results/runs.csv"])))
        assert ({"host", "git_sha", "git_dirty"} <= columns) is not is_blind
        said = [*runs["git_sha"].dropna(), host] if len(host) >= hiding.SHORTEST else []
        assert [word for word in said if str(word).encode() in texts] == ([] if is_blind else said)
    assert b"hosts, commits and plug-ins are left out" in blind["README.md"]


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("dataset.root=/home/ann/data/voc model=x", "dataset.root=PATH/voc model=x"),
        ('{"weights":"/w/r.safetensors","n":1}', '{"weights":"PATH/r.safetensors","n":1}'),
        ("failed:FileNotFoundError: '/data/a b/c'", "failed:FileNotFoundError: 'PATH/a b/c'"),
        ("a/b 1/2 https://x.y/z ../up/x ~/x model=org/name", "a/b 1/2 https://x.y/z ../up/x ~/x model=org/name"),
        ("results=/data/", "results=PATH/data"),
    ],
)
def test_paths_are_hidden_and_nothing_else(text: str, plain: str) -> None:
    assert hiding.without_paths(text) == plain


def test_what_slips_through_is_refused(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the name of the file and the word; nothing is written."""
    with pytest.raises(ConfigError, match=r"x\.md would hold 'secret'.*nothing was written"):
        hiding.check({"x.png": b"\xff secret", "y.md": b"secretary", "x.md": b"a secret."}, ["secret"])
    monkeypatch.setattr(hiding, "without_paths", str)
    assert call(["export", str(tmp_path / "x.zip"), "--results", str(results)]) == 2
    assert not (tmp_path / "x.zip").exists()


def test_samples_are_those_of_the_store(results: Path, blind: dict[str, bytes]) -> None:
    """By the keys that results.csv has."""
    row = pd.read_csv(results / "tidy/results.csv").iloc[0]
    name = f"samples/{row.cell_key}/{row.metric}-{row.metric_key}.parquet"
    stored = CellStore(results / "store", row.cell_key).group(row.metric_key).read(4)
    pd.testing.assert_frame_equal(pd.read_parquet(io.BytesIO(blind[name])), stored, check_dtype=False)
    assert f"samples/{row.cell_key}/samples.parquet" in blind and b"samples/" in blind["README.md"]


def test_a_run_without_a_config_file_keeps_its_words(tmp_path: Path) -> None:
    """Of an earlier version: the words of its record, cut before each key."""
    runs = pd.DataFrame(
        {"record": ["r.t"], "started": ["1"], "overrides": ["method=[a,b] note='two words' ~train +x.y=1"]}
    )
    assert commands(tmp_path, runs) == ["python run.py 'method=[a,b]' 'note='\"'\"'two words'\"'\"'' '~train' +x.y=1"]


@pytest.mark.parametrize(("words", "said"), [(["x.tar"], "ends in .zip"), ([], "no results below")])
def test_what_cannot_be_exported(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["export", *words, "--results", str(tmp_path / "none")]) == 2
    assert said in capsys.readouterr().err
