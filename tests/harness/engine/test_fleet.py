"""Workers without locks: whatever they do at once, and whoever dies, the tables are the lone run's, byte for byte."""

import io
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import forks
import pandas as pd
import pytest
from assay.harness import launch
from assay.harness.commands.program import call
from assay.harness.config import ConfigError
from assay.harness.engine import evaluate as engine
from assay.harness.engine import turns
from assay.harness.overrides import compose_config
from assay.harness.places import place, read_bytes, stamps
from assay.harness.store.damage import Incomplete

ATTRIBUTIONS = [
    *("compute.processes=1", "compute.device=cpu", "limit=16", "compute.shard_size=4"),
    *("method=[gradcam,center]", "metric=[pointing_game,positive_ratio]"),
]
DETECTORS = [
    *("compute.processes=1", "compute.device=cpu", "experiment=ood_embedded", "limit=24", "train.limit=24"),
    *("compute.shard_size=4", "ood=[scenes_noise]", "method=[msp,mahalanobis]", "metric=[ood]"),
]
FLEET = "compute.coordination=none"


class Killed(BaseException):
    """A worker ends where nothing catches it."""


def run_here(results: str, *words: str) -> int:
    return launch.run(compose_config([*words, f"results={results}"]), [])


def table(results: str) -> bytes:
    return read_bytes(place(results) / "tidy" / "results.csv")


def columns(results: str) -> dict[str, bytes]:
    """Every file of a store that holds columns or rows of samples."""
    root = place(results) / "store"
    names = [name.lstrip("/") for name in stamps(root)]
    return {name: read_bytes(root / name) for name in names if name.endswith((".parquet", ".damaged"))}


@pytest.fixture(scope="module", params=["attributions", pytest.param("detectors", marks=pytest.mark.slow)])
def work(request: pytest.FixtureRequest) -> list[str]:
    """Words of a run of either wing; the detectors' has a fit."""
    return ATTRIBUTIONS if request.param == "attributions" else DETECTORS


@pytest.fixture(scope="module")
def alone(work: list[str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The lone run with locks, in a folder."""
    results = str(tmp_path_factory.mktemp("alone"))
    assert run_here(results, *work) == 0
    return results


@pytest.fixture(params=[pytest.param("folder", marks=pytest.mark.slow), "memory"])
def results(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A place for results: a folder, or fsspec's store in memory."""
    if request.param == "memory":
        pytest.importorskip("upath", reason="universal_pathlib is not installed")
    yield str(tmp_path) if request.param == "folder" else f"memory://{uuid4()}"


def test_a_worker_dies_and_another_takes_over(
    work: list[str], alone: str, results: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worker 1 of 2 ends after its first shard; worker 0 makes the rest, in one table; worker 1 again has no work."""
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_compute", dying(engine._compute))
        with pytest.raises(Killed):
            run_here(results, *work, FLEET, "compute.worker=1/2")
    assert len(columns(results)) < len(columns(alone))
    assert run_here(results, *work, FLEET, "compute.worker=0/2") == 0
    assert table(results) == table(alone) and columns(results) == columns(alone)
    before = stamps(place(results) / "store")
    assert run_here(results, *work, FLEET, "compute.worker=1/2") == 0
    assert stamps(place(results) / "store") == before and table(results) == table(alone)


def dying(compute):  # type: ignore[no-untyped-def]
    """The first shard is computed, at the second one the process is gone."""
    done: list[object] = []

    def first(job, *rest):  # type: ignore[no-untyped-def]
        if done:
            raise Killed
        done.append(compute(job, *rest))

    return first


def test_what_two_compute_is_put_twice_in_equal_bytes(
    work: list[str], alone: str, results: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worker 1 runs from beginning to end while worker 0 has its first images in hand, and looks at nothing again."""
    compute, ran = engine._compute, list[bool]()

    def other_first(job, *rest):  # type: ignore[no-untyped-def]
        if not ran:
            ran.append(True)
            assert run_here(results, *work, FLEET, "compute.worker=1/2") == 0
        compute(job, *rest)

    monkeypatch.setattr(engine, "_compute", other_first)
    monkeypatch.setattr(turns, "_unless_done", lambda job, shard, wanted: wanted)
    assert run_here(results, *work, FLEET, "compute.worker=0/2") == 0
    assert ran and table(results) == table(alone) and columns(results) == columns(alone)


def test_a_store_in_an_object_store_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    """By every command that reads; tables and report lie beside the store. Locks and gc are refused by name."""
    pytest.importorskip("upath", reason="universal_pathlib is not installed")
    results = f"memory://{uuid4()}"
    assert run_here(results, *ATTRIBUTIONS, FLEET) == 0
    for words, said in {
        ("status",): "2 cells in",
        ("collect",): "rows:",
        ("compare", "gradcam", "center"): "gradcam - center, 95 % intervals",
        ("report",): "report:",
        ("table", "hedging_table1"): "hedging_table1",
        ("plan", *ATTRIBUTIONS, FLEET, "--images", "1e9", "--workers", "64"): "1,000,000,000 images in 250,000,000",
    }.items():
        capsys.readouterr()
        assert call([*words, "--results", results]) == 0, capsys.readouterr().err
        assert said in capsys.readouterr().out
    assert b"<html" in read_bytes(place(results) / "report" / "index.html")
    assert call(["gc", "--results", results]) == 2
    assert "nobody knows who is computing it" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"an object store has no locks.*add compute\.coordination=none"):
        run_here(results, *ATTRIBUTIONS)


@pytest.mark.slow
def _meanwhile(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Something happens when the first shard is there, and the second one is about to be computed."""
    compute, begun = engine._compute, list[object]()

    def second(job, *rest):  # type: ignore[no-untyped-def]
        begun.append(job)
        if len(begun) == 2:
            act()
        compute(job, *rest)

    monkeypatch.setattr(engine, "_compute", second)


def test_gc_leaves_what_workers_compute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No lock says so."""
    _meanwhile(monkeypatch, lambda: call(["gc", "--unfinished", "--features", "--yes", "--results", str(tmp_path)]))
    assert run_here(str(tmp_path), *ATTRIBUTIONS, FLEET) == 0
    assert len(columns(str(tmp_path))) == 2 * 3 * 4  # cells, groups, shards
    assert table(str(tmp_path)).count(b"\n") > 4


@pytest.mark.parametrize("words", [[], [FLEET]], ids=["locks", "none"])
def test_a_run_whose_rows_are_gone_does_not_end_well(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody removes a cell by hand: its shards are computed again, but nothing says whose they are."""
    cells = [*ATTRIBUTIONS, *words]
    _meanwhile(monkeypatch, lambda: shutil.rmtree(next((tmp_path / "store").glob("*/cell.json")).parent))
    with pytest.raises(Incomplete, match=r"has no rows .*somebody has removed what was computed there.*run again"):
        run_here(str(tmp_path), *cells)
    assert run_here(str(tmp_path), *cells) == 0
    assert table(str(tmp_path)).count(b",pointing_game,") and table(str(tmp_path)).count(b"\n") > 4


def test_a_damaged_shard_is_made_anew(results: str) -> None:
    """Set aside, whether or not there are folders to rename in."""
    assert run_here(results, *ATTRIBUTIONS, FLEET) == 0
    whole, root = columns(results), place(results) / "store"
    name = min(whole)
    (root / name).write_bytes(whole[name][:-9] + b"\0" + whole[name][-8:])
    assert run_here(results, *ATTRIBUTIONS, FLEET) == 0
    assert {each: data for each, data in columns(results).items() if not each.endswith("damaged")} == whole


def test_a_failure_is_every_worker_s(results: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One method fails on its network: either worker says so and leaves 1; the other method has its rows."""
    words = [*ATTRIBUTIONS, "method=[gradcam,cam]", "model=scenes_vgg", FLEET]
    for worker in ("0/2", "1/2"):
        assert run_here(results, *words, f"compute.worker={worker}") == 1
        assert "FAILED cam: " in capsys.readouterr().err
    frame = pd.read_csv(io.BytesIO(table(results)))
    assert frame[frame.method == "gradcam"].status.eq("ok").all() and (frame.method == "gradcam").any()
    assert frame[frame.method == "cam"].status.str.startswith("failed").all()


HOLD = """
import os, pathlib, signal
from assay.harness.store import store

put, puts = store.write_sealed, []

def held(path, data):
    put(path, data)
    puts.append(path)
    if len(puts) == int(os.environ["HOLD_AFTER"]):
        pathlib.Path(os.environ["HELD"]).touch()
        while True:
            signal.pause()

store.write_sealed = held
"""


def test_two_processes_one_killed(work: list[str], alone: str, tmp_path: Path) -> None:
    """On a folder; the first is killed in the middle of its second shard, while the other one is at work."""
    assert_survives(work, alone, str(tmp_path / "results"), tmp_path, 4)


def assert_survives(work: list[str], alone: str, results: str, scratch: Path, puts: int) -> None:
    """Two workers, of whom one is killed, for certain: after so many puts it does no more until then.

    The other one leaves the lone run's table.
    """
    words, variables = [*work, FLEET, f"results={results}"], dict(os.environ)
    sign, script = scratch / "held", scratch / "hold.py"
    script.write_text(HOLD)
    holding = variables | {"HOLD_AFTER": str(puts), "HELD": str(sign)}
    killed = forks.start(*words, "compute.worker=0/2", environment=holding, before=script)
    while not sign.exists():
        assert killed.poll() is None, killed.errors()
        time.sleep(0.01)
    held = columns(results)
    assert len(held) == puts < len(columns(alone))
    other = forks.start(*words, "compute.worker=1/2", environment=variables)
    while len(columns(results)) == puts and other.poll() is None:
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert other.wait() == 0, other.errors()
    assert table(results) == table(alone) and columns(results) == columns(alone)


# On a local S3 server


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket of moto's server, which lives in a thread; fsspec and botocore find it by their own variables."""
    server_module = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")

    server = server_module.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    known = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in known.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="fleet")
        yield "s3://fleet"
    server.stop()


@pytest.mark.slow
@pytest.mark.parametrize("kill", range(10))
def test_two_workers_on_s3_one_killed(kill: int, work: list[str], alone: str, bucket: str, tmp_path: Path) -> None:
    """Ten kills of each wing, each a put later: processes of their own, an S3 of this machine."""
    reading = ["compute.workers=1"] * (kill % 2)  # loader processes are forked beside fsspec's thread
    assert_survives([*work, *reading], alone, f"{bucket}/{uuid4()}/results", tmp_path, 1 + kill)
