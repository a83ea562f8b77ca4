"""The loop and the store together: what must be bit-equal is, and nothing is computed twice."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

import forks
import numpy as np
import pandas as pd
import pytest
import torch
from assay.datasets.scenes import Scenes
from assay.harness import launch
from assay.harness.attribution.cell import AttributionCell
from assay.harness.attribution.plan import build_job
from assay.harness.attribution.run import AttributionRun
from assay.harness.config import ConfigError
from assay.harness.engine import evaluate as engine
from assay.harness.engine.costs import Outcome
from assay.harness.engine.job import Job
from assay.harness.engine.measure import _micro_batches
from assay.harness.engine.rank import Rank
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.network import Network
from assay.harness.overrides import compose_config
from assay.harness.results.tidy import collect
from assay.harness.store.store import SAMPLES, Group
from assay.harness.types import Attribution, Batch, FramedMaps, Sample
from assay.metrics.grids import Disconnection, GridPointing

ROOT = Path(__file__).resolve().parents[3]
METHODS = "method=[gradient,integrated_gradients,gradcam,random,smoothgrad]"
FAST = ["method.integrated_gradients.steps=3", "method.smoothgrad.samples=3"]
ALONE = ("compute.processes=1", "compute.device=cpu")
METRICS = "metric=[pointing_game,energy_pointing_game]"


def words(results: Path, *overrides: str) -> list[str]:
    """A run on the embedded benchmark: 20 images in 5 shards, in one process unless told otherwise."""
    return [*ALONE, "limit=20", "compute.shard_size=4", f"results={results}", METHODS, *FAST, METRICS, *overrides]


def run(results: Path, *overrides: str) -> str:
    """Run to the end in a process of its own; its standard output."""
    return forks.run(*words(results, *overrides)).output()


def run_here(results: Path, *overrides: str) -> None:
    """The same in this process, where it does not matter in which."""
    assert launch.run(compose_config(words(results, *overrides)), []) == 0


def tables(results: Path) -> dict[str, pd.DataFrame]:
    """Every shard on disk, by cell, group and range."""
    root = results / "store"
    return {str(p.relative_to(root)): pd.read_parquet(p) for p in sorted(root.rglob("*.parquet"))}


def assert_bit_equal(one: Path, other: Path) -> None:
    """Equal result tables, byte for byte, and equal per-sample tables, value for value."""
    assert (one / "tidy/results.csv").read_bytes() == (other / "tidy/results.csv").read_bytes()
    left, right = tables(one), tables(other)
    assert left.keys() == right.keys() and left
    for name, frame in left.items():
        pd.testing.assert_frame_equal(frame, right[name], check_exact=True)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`python run.py`, one process, no loader workers: what every other way of computing is compared with."""
    results = tmp_path_factory.mktemp("reference")
    command = [sys.executable, str(ROOT / "run.py"), *words(results, "compute.workers=0")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return results


WAYS = [["compute.workers=2"], ["compute.processes=3"]]  # slow: four starts of Python


@pytest.mark.parametrize(
    "way", [["compute.workers=1", "compute.processes=2"], *(pytest.param(way, marks=pytest.mark.slow) for way in WAYS)]
)
def test_workers_and_processes_do_not_change_a_bit(way: list[str], reference: Path, tmp_path: Path) -> None:
    """Loader workers 0/1/2 and processes 1/2/3, exactly: micro-batches and thread counts are the same."""
    run(tmp_path, *way)
    assert_bit_equal(reference, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metric", "settings"),
    [
        (GridPointing, ["model=scenes_resnet", "dataset=scenes_grid", "metric=[grid_pointing]"]),
        (Disconnection, ["model=scenes_resnet_disconnected", "dataset=scenes_disconnected", "metric=[disconnection]"]),
    ],
    ids=["grid_pointing", "disconnection"],
)
def test_grids_in_two_processes_and_resumed(
    metric: type[GridPointing] | type[Disconnection],
    settings: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Four grids, a shard each, in one process, in two, and interrupted in the second shard: the same bytes."""
    few = [*settings, "method=[gradcam,random]", "limit=4", "compute.shard_size=1", "compute.device=cpu"]

    def here(name: str) -> None:
        assert launch.run(compose_config([*few, "compute.processes=1", f"results={tmp_path / name}"]), []) == 0

    here("one")
    forks.run(*few, "compute.processes=2", f"results={tmp_path / 'two'}")
    assert_bit_equal(tmp_path / "one", tmp_path / "two")
    measure, calls = metric.measure, count()

    def interrupted(made: Any, batch: Batch, maps: FramedMaps, forward: ForwardPass) -> dict[str, torch.Tensor]:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return measure(made, batch, maps, forward)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(metric, "measure", interrupted)
        here("again")
    assert len(tables(tmp_path / "again")) == 4  # two methods' shard, with who its pairs are
    here("again")
    assert_bit_equal(tmp_path / "one", tmp_path / "again")


def test_torchrun_ranks_share_the_shards(reference: Path, tmp_path: Path) -> None:
    """Three ranks (as torchrun starts them: RANK and WORLD_SIZE), exactly equal to one process."""
    settings = words(tmp_path, "compute.processes=auto")  # one under torchrun
    places = [{"RANK": str(rank), "WORLD_SIZE": "3"} for rank in range(3)]
    ranks = [forks.start(*settings, environment=place) for place in places]
    assert [process.wait() for process in ranks] == [0, 0, 0], [process.errors() for process in ranks]
    assert_bit_equal(reference, tmp_path)


def test_four_kills_and_a_resume_do_not_change_a_bit(tmp_path: Path) -> None:
    """SIGKILL of the process group, of one process or two, at random moments while shards are being written; a resume.

    Sixteen shards of two images, so that every kill finds work under way; exactly equal to an undisturbed run.
    (tests/campaigns/test_kills.py has fifty, in every place.)
    """
    slow = ["limit=32", "compute.shard_size=2", "method.integrated_gradients.steps=24"]
    settings = words(tmp_path / "killed", *slow, "method=[integrated_gradients,gradcam]")
    settings.remove("method.smoothgrad.samples=3")
    generator = random.Random(0)
    kills = 0
    for number in range(4):
        processes = f"compute.processes={1 + number % 2}"
        kills += _killed_at_a_random_moment([*settings, processes], tmp_path / "killed", generator)
    assert kills == 4
    forks.run(*settings)
    forks.run(*settings, f"results={tmp_path / 'fresh'}")
    assert_bit_equal(tmp_path / "fresh", tmp_path / "killed")


def _killed_at_a_random_moment(settings: list[str], results: Path, generator: random.Random) -> bool:
    """Start a run, let it write one to three more files, kill it; whether it died of the kill."""
    files = lambda: len(list((results / "store").rglob("*.parquet")))  # noqa: E731
    enough = files() + generator.randint(1, 3)
    process = forks.start(*settings, session=True)
    while process.poll() is None and files() < enough:
        time.sleep(0.002)
    time.sleep(generator.uniform(0, 0.02))
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def test_two_processes_on_one_cell_share_it(reference: Path, tmp_path: Path) -> None:
    """Two independent runs of the same command: every shard computed once, by one or the other."""
    both = [forks.start(*words(tmp_path)) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    found = [re.search(r"^(\d+) shards computed", process.output(), re.MULTILINE) for process in both]
    counts = [int(match[1]) for match in found if match]
    assert sum(counts) == 5
    assert_bit_equal(reference, tmp_path)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batch_size_changes_rounding_only(batch_size: int, reference: Path, tmp_path: Path) -> None:
    """Batches of 1 and 3 against whole shards of 4 in float32: decisions equal unless tied, 95 % of the results to
    rtol 1e-5.

    A sample's gradient jumps when rounding moves a unit across a ReLU's kink, and over 20 images that can show
    in a mean: none differs by more than 1e-4. Of the per-sample numbers at most 1 % are beyond 1e-5, none
    beyond 1e-2. In float64, where no unit sits that near to its kink, everything holds to 1e-6 (next test).
    """
    run_here(tmp_path, f"compute.batch_size={batch_size}")
    one, other = (pd.read_csv(folder / "tidy/results.csv") for folder in (reference, tmp_path))
    np.testing.assert_allclose(one["value"], other["value"], rtol=1e-4)
    assert np.isclose(one["value"], other["value"], rtol=1e-5, atol=0, equal_nan=True).mean() >= 0.95
    apart = _numbers_apart(tables(reference), tables(tmp_path))
    assert (apart > 1e-5).mean() < 0.01 and apart.max() < 1e-2


def _numbers_apart(left: dict[str, pd.DataFrame], right: dict[str, pd.DataFrame]) -> np.ndarray:
    """Relative differences of all per-sample numbers; decisions (integers, booleans, names) are asserted equal."""
    assert left.keys() == right.keys()
    apart = []
    for name, frame in left.items():
        for column in frame:
            one, other = frame[column], right[name][column]
            if one.dtype.kind == "f":
                apart.append((one - other).abs() / other.abs().clip(lower=1e-3))
            else:
                untied = frame.get("ties", pd.Series(1, frame.index)) == 1
                assert (one[untied] == other[untied]).all(), (name, column)
    return np.concatenate(apart)


def test_batch_size_changes_nothing_in_float64(tmp_path: Path) -> None:
    """The same in float64, where no unit sits within rounding of its kink: every sample to 1e-6.

    Maps are stored as float32, so 1e-6 is the last bit, not an error of the arithmetic.
    """
    for size in ("1", "3", "8"):
        engine.evaluate(job_of(tmp_path / size, "precision=float64", METHODS, *FAST, f"compute.batch_size={size}"))
    for size in ("1", "3"):
        assert _numbers_apart(tables(tmp_path / size), tables(tmp_path / "8")).max() < 1e-6


def job_of(results: Path, *overrides: str) -> Job:
    """A built job of 16 images in two shards, in this process."""
    torch.set_num_threads(1)
    base = ["limit=16", "compute.shard_size=8", "compute.device=cpu", "method=[gradient,center]"]
    job = build_job(compose_config([*base, f"results={results}", *overrides]), results / "store")
    AttributionRun(job).prepare(Rank(0, 1))
    return job


def test_adding_a_metric_recomputes_no_other_column(tmp_path: Path) -> None:
    """The counters of the second call show the new metric alone; files of the first are not written again."""
    engine.evaluate(job_of(tmp_path, "metric=[pointing_game]"))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    outcome = engine.evaluate(job_of(tmp_path, "metric=[pointing_game,positive_ratio]"))
    measured = {name: cost.images for name, cost in outcome.costs.items() if name.startswith("metric ")}
    assert measured == {"metric positive_ratio": 32}  # 16 images x 2 methods
    assert all(path.stat().st_mtime_ns == moment for path, moment in before.items())


def test_fewer_subsets_take_no_rows_away(tmp_path: Path) -> None:
    """A later summary of the same columns that asks for less: all numbers stay, its own rows are what it asked for."""
    small = [*ALONE, "method=[edges,center]", "metric=[positive_ratio]", "limit=4", f"results={tmp_path}"]

    def table(*subsets: str) -> pd.DataFrame:
        config = compose_config([*small, f"metric.positive_ratio.subsets=[{','.join(subsets)}]"])
        assert launch.run(config, []) == 0
        return pd.read_csv(tmp_path / "tidy/results.csv")

    both = table("all", "predicted")
    pd.testing.assert_frame_equal(table("all"), both)
    (own,) = (tmp_path / "runs").glob("*/results.csv")
    assert set(pd.read_csv(own)["subset"]) == {"all"}
    more = table("difficult")
    assert set(more["subset"]) == {"all", "predicted", "difficult"}
    updated = (tmp_path / "tidy/results.csv").read_bytes()
    collect(tmp_path)
    assert (tmp_path / "tidy/results.csv").read_bytes() == updated


def test_a_second_call_does_nothing(tmp_path: Path) -> None:
    """No pass through the network, no shard."""
    engine.evaluate(job_of(tmp_path))
    job = job_of(tmp_path)
    assert engine.evaluate(job).shards == 0
    assert job.network.passes.forward == 0


@pytest.mark.parametrize("number", [0, 1])
def test_a_shard_is_taken_whole_or_not_at_all(number: int, tmp_path: Path) -> None:
    """Another process holds one method's lock of the first shard: it is left alone, and made once when it is free.

    Taking the free half would load and forward its images twice, and count three shards where there are two.
    """
    job = job_of(tmp_path)
    lock = job.cells[number].store.lock(job.shards[0])
    assert lock.acquire()
    outcome = engine.evaluate(job, report=lambda images: lock.release())
    assert outcome.shards == 2
    assert not job.missing()


def test_micro_batches_by_hand() -> None:
    """Equal shapes and as many classes, no more than three together: six images, each of them once.

    Going back once a class takes 3 x 1 + 2 x 3 rows of the five small images, one a pair, not 3 x 3 + 2 x 3.
    """
    counts, sides = (3, 1, 3, 1, 1, 1), (8, 8, 8, 8, 16, 8)
    samples = [
        Sample(str(n), torch.zeros(3, side, side), tuple(range(count)), (side, side))
        for n, (count, side) in enumerate(zip(counts, sides, strict=True))
    ]
    assert list(_micro_batches(samples, 3)) == [[0, 2], [1, 3, 5], [4]]
    assert list(_micro_batches(samples, 2)) == [[0, 2], [1, 3], [5], [4]]


def test_a_method_alone_or_in_company_gives_the_same_bits(tmp_path: Path) -> None:
    """gradcam alone (no gradient graph) and beside gradient (graph kept), exactly."""
    engine.evaluate(job_of(tmp_path / "alone", "method=[gradcam]"))
    engine.evaluate(job_of(tmp_path / "company", "method=[gradcam,gradient,integrated_gradients]"))
    alone, company = tables(tmp_path / "alone"), tables(tmp_path / "company")
    for name, frame in alone.items():
        pd.testing.assert_frame_equal(frame, company[name], check_exact=True)


def test_a_longer_run_reuses_the_shards_of_a_shorter_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """limit=8 and then limit=20: two of five shards are there already."""
    run_here(tmp_path, "limit=8")
    run_here(tmp_path)
    assert "3 shards computed" in capsys.readouterr().out


def test_one_failing_method_does_not_lose_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method that returns nan is marked with its reason and the samples; the other method's shards are whole."""
    job = job_of(tmp_path)
    broken = next(cell for cell in job.cells if cell.name == "gradient")
    assert isinstance(broken, AttributionCell)

    def nan(self: object, forward: object, targets: Targets, rng: object) -> Attribution:
        return Attribution(torch.full((len(targets.image), 4, 4), torch.nan))

    monkeypatch.setattr(type(broken.attributor), "attribute", nan)
    outcome = engine.evaluate(job)
    assert "not finite for test-000000#" in outcome.failures["gradient"]
    failure = broken.group("pointing_game").failure()
    assert failure is not None and "not finite" in failure.why
    other = next(cell for cell in job.cells if cell.name == "center")
    assert other.group("pointing_game").missing(job.shards) == []
    assert broken.group("pointing_game").shards() == []


def test_a_failing_metric_does_not_lose_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A metric that raises leaves the method's other metric whole, and a run exits with 1 and a row that says why."""
    from assay.metrics.localization import PositiveRatio

    def broken(*_: object) -> None:
        raise ArithmeticError("planted")

    monkeypatch.setattr(PositiveRatio, "measure", broken)
    config = compose_config(
        ["limit=8", "method=[center]", "metric=[pointing_game,positive_ratio]", f"results={tmp_path}", *ALONE]
    )
    assert launch.run(config, []) == 1
    frame = pd.read_csv(tmp_path / "tidy/results.csv")
    status = frame.set_index("metric")["status"]
    assert status["positive_ratio"] == "failed:ArithmeticError: planted"
    assert (status["pointing_game"] == "ok").any()


def test_an_unreadable_sample_ends_the_run_with_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The eleventh image raises: the first shard stays, every row names the file, the exit code is 1."""
    whole = Scenes.__getitem__

    def torn(self: Scenes, index: int) -> Sample:
        if index == 10:
            raise ValueError("scene10.jpg cannot be read")
        return whole(self, index)

    monkeypatch.setattr(Scenes, "__getitem__", torn)
    config = compose_config(
        ["limit=16", "compute.shard_size=8", "method=[center,edges]", f"results={tmp_path}", *ALONE]
    )
    assert launch.run(config, []) == 1
    frame = pd.read_csv(tmp_path / "tidy/results.csv")
    assert frame["status"].str.contains("scene10.jpg cannot be read").all() and len(frame) == 2
    assert len(list((tmp_path / "store").rglob("00000000-00000008.parquet"))) == 4


def test_memory_shortage_halves_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that refuses more than two images: 16 -> 8 -> 4 -> 2, said aloud, and everything is computed."""
    plain = Network.run

    def narrow(self: Network, inputs: torch.Tensor, layers: tuple[str, ...]) -> object:
        if len(inputs) > 2:
            raise torch.OutOfMemoryError("planted")
        return plain(self, inputs, layers)

    monkeypatch.setattr(Network, "run", narrow)
    job = job_of(tmp_path)
    outcome = engine.evaluate(job)
    assert (outcome.batch_size, outcome.failures, job.missing()) == (2, {}, {})


@pytest.mark.parametrize(("mode", "limit"), [("refresh", 8), ("off", 12), ("only", 12)])
def test_cache_modes(mode: str, limit: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """refresh computes all anew, off leaves the store alone, only refuses to compute."""
    run_here(tmp_path, "limit=8")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*.parquet")}
    again = words(tmp_path, f"limit={limit}", f"cache={mode}")
    if mode == "only":
        with pytest.raises(ConfigError, match="cache=only, but results of gradcam, gradient, "):
            launch.run(compose_config(again), [])
    else:
        assert launch.run(compose_config(again), []) == 0
        assert f"{limit // 4} shards computed" in capsys.readouterr().out
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*.parquet")}
    metrics = [path for path in before if path.parent.name != SAMPLES]
    assert (all(after[path] > before[path] for path in metrics)) if mode == "refresh" else after == before


def test_subset_seed_permutes_the_images(tmp_path: Path) -> None:
    """Another order of images is another cell, and the split column says which."""
    plain, shuffled = job_of(tmp_path), job_of(tmp_path, "subset_seed=3")
    assert plain.cells[0].store.key != shuffled.cells[0].store.key
    assert (plain.images.split, shuffled.images.split) == ("test[:16]", "test[:16]@seed3")
    one, other = list(plain.images.order), list(shuffled.images.order)
    assert sorted(one) == sorted(other) and one != other


@pytest.mark.parametrize("protocol", ["labels", "predicted", "top1"])
def test_target_policies(protocol: str, tmp_path: Path) -> None:
    """labels: every annotated class; predicted: those above 0.5 among them; top1: one pair an image."""
    job = job_of(tmp_path, "method=[center]", f"protocol.targets={protocol}")
    engine.evaluate(job)
    frame = job.cells[0].group(SAMPLES).read(16)
    annotated = {f"{s.id}#{c}" for s in (job.images.dataset[i] for i in range(16)) for c in s.targets}
    if protocol == "top1":
        assert frame["image_id"].is_unique and (frame["label"] == frame["top"]).all()
    else:
        assert set(frame["sample_id"]) <= annotated
        assert (set(frame["sample_id"]) == annotated) == (protocol == "labels") or frame["predicted"].all()


def test_a_look_at_open_work_asks_each_group_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen shards of two methods, two groups each: four questions to the disk, not four a shard."""
    job = job_of(tmp_path, "compute.shard_size=1", "metric=[pointing_game]")
    asked: list[Group] = []

    def has_failed(group: Group) -> bool:
        asked.append(group)
        return False

    monkeypatch.setattr(Group, "has_failed", property(has_failed))
    assert len(engine._open_work(job, Outcome())) == 16
    assert len(asked) == 4
