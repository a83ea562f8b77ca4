"""Results as one file: what is in it, that it is the same each time, and what must not be in it."""

import getpass
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
from assay.harness.results import composed
from assay.harness.results.bundle import hiding, people
from assay.harness.results.bundle.readme import commands
from assay.harness.results.tables import files as tables
from assay.harness.results.words import kept, told_overrides
from assay.harness.store.store import CellStore

RUN = ["method=[gradcam,center]", "metric=[pointing_game]", "limit=4", "compute.processes=1"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run whose command line holds a path, and a sink with what is nobody's business."""
    made = tmp_path_factory.mktemp("somebody") / "results"
    sinks = made.parent / "conf" / "sink"
    sinks.mkdir(parents=True)
    (sinks / "folder.yaml").write_text("# @package sink.folder\n_target_: sink_toys.Folder\nfolder: null\n")
    sent = ["sink=[folder]", f"sink.folder.folder={made.parent / 's3cret'}"]
    words = [*RUN, *sent, f"results={made}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSAY_ALLOW_TARGET", "sink_toys.")
        assert launch.run(compose_config([f"--config-dir={sinks.parent}", *words]), words) == 0
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
        said = [*runs["git_sha"].dropna(), host] if len(host) >= people.SHORTEST else []
        assert [word for word in said if str(word).encode() in texts] == ([] if is_blind else said)
    assert b"hosts, commits and plug-ins are left out" in blind["README.md"]


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("sink.x.uri=sqlite:////data/ann/ml.db", "sink.x.uri=sqlite://PATH/ml.db"),
        ("uri: http://ann:s3cret@ml.lab.edu:5000", "uri: http://PATH"),
        ("http://ann:s3/cret@lab.edu", "http://PATH"),
        ("x=[s3://ann/a.csv,s3://ann/b.csv]", "x=[s3://PATH/a.csv,s3://PATH/b.csv]"),
        ("s3://ann-bucket/x/y.parquet?token=s3cret", "s3://PATH/y.parquet"),
        ("file:///home/ann file:///home/ann/x", "file://PATH file://PATH/x"),
        ("~/voc ~ann/voc ../ann/voc x=a/../../ann/voc", "PATH/voc PATH/voc PATH/voc x=a/PATH/voc"),
        ("root=//nas/ann/voc C:\\Users\\ann\\voc", "root=PATH/voc PATH/voc"),
        ("A=/a:/home/ann/c", "A=PATH/a:PATH/c"),
        ("results=/home/ann (/Users/ann) /home/ann/", "results=PATH (PATH) PATH"),
        ("root=/data/ann smith (2)/voc y=1", "root=PATH/voc y=1"),
        ("root: /data/ann o'brien/voc", "root: PATH/voc"),
        ("s3://PATH/x PATH/x PATH", "s3://PATH/x PATH/x PATH"),
        ("dataset.root=/home/ann/data/voc model=x", "dataset.root=PATH/voc model=x"),
        ('{"weights":"/w/r.safetensors","n":1}', '{"weights":"PATH/r.safetensors","n":1}'),
        ("failed:FileNotFoundError: '/data/a b/c'", "failed:FileNotFoundError: 'PATH/c'"),
        ("a/b 1/2 ./x +/- images/s model=org/name ~train", "a/b 1/2 ./x +/- images/s model=org/name ~train"),
        ("results=/data/", "results=PATH/data"),
    ],
)
def test_paths_are_hidden_and_nothing_else(text: str, plain: str) -> None:
    assert hiding.without_paths(text) == plain


def test_no_path_ends_in_the_users_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever their folder is."""
    monkeypatch.setattr(getpass, "getuser", lambda: "ann")
    assert hiding.without_paths("results=/scratch/ann x=/scratch/ann/y") == "results=PATH x=PATH/y"


def test_neither_record_nor_bundle_says_where_it_was_sent(results: Path, blind: dict[str, bytes]) -> None:
    """A sink changes no number, so its settings, among which may be passwords, are kept nowhere."""
    assert (results.parent / "s3cret").is_dir()
    files = {str(path): path.read_bytes() for path in results.rglob("*") if path.is_file()} | blind
    assert [name for name, data in files.items() if b"s3cret" in data or b"sink_toys" in data] == []


def test_what_an_earlier_version_kept_is_not_told() -> None:
    """Sinks among the overrides and in the config; credentials of any address."""
    sinks = "++sink.up.uri=http://ann:s3@cret@lab.edu sink=[up] sink.up.name=of ann ~sink x=1"
    assert told_overrides(f"a=1 {sinks}") == "a=1 x=1"
    assert kept(["a=http://ann:s3@cret@lab.edu/x", "sinks=1", "sink.up.name=of b=1"]) == [
        "a=http://lab.edu/x",
        "sinks=1",
    ]
    text = "# python run.py a=1 'sink.up.name=of ann'\na: 1\nsink:\n  up:\n    x:\n    - s3cret\n\n    y: 1\nseed: 0\n"
    assert composed.told_config(text) == "# python run.py a=1\na: 1\nseed: 0\n"


def test_what_slips_through_is_refused(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the name of the file and the word; nothing is written."""
    files = {"x.png": b"\xff secret", "y.md": b"secretary", "x.md": b"a secret_x."}
    with pytest.raises(ConfigError, match=r"x\.md would hold 'secret'.*nothing was written.*--allow secret"):
        people.check(people.texts(files), ["secret"])
    monkeypatch.setattr(hiding, "without_paths", str)
    assert call(["export", str(tmp_path / "x.zip"), "--results", str(results)]) == 2
    assert not (tmp_path / "x.zip").exists()


def test_tables_behind_parquets_are_searched() -> None:
    """Their texts; the file's own bytes would not show them."""
    buffer = io.BytesIO()
    pd.DataFrame({"n": [1, 2], "sample_id": ["ann/1", None]}).to_parquet(buffer)
    with pytest.raises(ConfigError, match=r"samples/x\.parquet would hold 'ann'"):
        people.check(people.written({"samples/x.parquet": buffer.getvalue()}, {}), ["ann"])


def test_names_of_people_and_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a host's first part; no everyday words, which our own configs hold, and nothing short."""
    monkeypatch.setattr(getpass, "getuser", lambda: "ann")
    monkeypatch.setattr(Path, "home", lambda: Path("/h/ann"))
    hosts = ["test", "worker", "local", "cpu", "root", "vm", "ann-box.lab.edu"]
    assert people.names(pd.DataFrame({"host": hosts})) == ["ann", "ann-box", "ann-box.lab.edu"]


def test_names_are_looked_for_in_what_people_have_written() -> None:
    """A host called `main` is in every page's HTML; its column is left out."""
    runs = pd.DataFrame({"overrides": ["a=lab/x"], "status": ["ok"], "device": ["main"]})
    free = people.written({"report/index.html": b"<main>", "configs/a.yaml": b"x: 1"}, {"runs.csv": runs})
    people.check(free, ["main"])
    with pytest.raises(ConfigError, match=r"runs\.csv would hold 'lab'"):
        people.check(free, ["lab"])


def test_a_word_that_tells_nothing_can_be_allowed(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The mend that a refusal names, of somebody who is called like a method; others' bundles are not searched."""
    monkeypatch.setattr(people, "names", lambda runs: ["gradcam"])
    words = ["export", str(tmp_path / "x.zip"), "--anonymous", "--results", str(results)]
    assert call(words) == 2
    assert "would hold 'gradcam'" in capsys.readouterr().err and not (tmp_path / "x.zip").exists()
    assert call([*words, "--allow", "gradcam"]) == 0


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
