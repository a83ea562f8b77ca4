"""Who takes which shard without locks: by hand, and as invariants of any numbers of shards and workers."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from assay.harness.config import Compute, ConfigError
from assay.harness.engine.job import Job, Missing
from assay.harness.engine.rank import Rank
from assay.harness.engine.turns import LEAST, Locked, Numbered
from assay.harness.store.store import Shard, shards_of


def job_of(count: int) -> Job:
    """A job of so many shards of two images each."""
    return cast(Job, SimpleNamespace(shards=shards_of(2 * count, 2)))


def missing_of(*places: int) -> Missing:
    return {Shard(2 * place, 2 * place + 2): {"gradcam": {"samples"}} for place in places}


def order(turns: Numbered, count: int, *left: int) -> list[int]:
    """Which of `count` shards, of which `left` are missing, a worker tries now."""
    return [shard.start // 2 for shard in turns.order(job_of(count), missing_of(*left), 0)]


def test_own_shards_come_first_in_order() -> None:
    """Worker 1 of 3 owns shards 1, 4, 7, ..., of which what is there is left out."""
    assert order(Numbered(1, 3), 9, *range(9)) == [1, 4, 7]
    assert order(Numbered(1, 3), 9, 0, 2, 7, 8) == [7]
    assert order(Numbered(0, 1), 3, 0, 1, 2) == [0, 1, 2]


def test_between_two_looks_lies_an_eighth_of_its_own() -> None:
    """So that what others have failed in, or have done, is seen; never fewer than LEAST shards."""
    many = 16 * LEAST
    assert order(Numbered(0, 1), many, *range(many)) == list(range(many // 8))
    assert len(order(Numbered(0, 1), 2 * LEAST, *range(2 * LEAST))) == LEAST


def test_of_two_the_free_one_takes_the_far_half_backwards() -> None:
    """The owner goes on from the near end: they meet in the middle."""
    assert order(Numbered(0, 2), 12, 1, 3, 5, 7, 9, 11) == [11, 9, 7]
    assert order(Numbered(0, 2), 12, 5) == [5]


def test_free_workers_take_other_pieces() -> None:
    """Worker 2 of 4 is late with eight shards: the others take two each, none twice, the near ones left to it."""
    late = [2, 6, 10, 14, 18, 22, 26, 30]
    taken = [order(Numbered(number, 4), 32, *late) for number in (0, 1, 3)]
    assert taken == [[30, 26], [22, 18], [14, 10]]


@pytest.mark.parametrize(("count", "world"), [(1, 1), (7, 2), (5, 8), (64, 5)])
def test_every_shard_is_done_whoever_dies(count: int, world: int) -> None:
    """Each of the workers alone, the others dead from the start, comes to the end; together they own all, once."""
    owned = [shard for number in range(world) for shard in order(Numbered(number, world), count, *range(count))]
    if world <= count:
        assert sorted(owned) == list(range(count))
    for number in range(world):
        left, looks = set(range(count)), 0
        while left:
            taken = order(Numbered(number, world), count, *sorted(left))
            assert taken, "nobody waits"
            left, looks = left - set(taken), looks + 1
        assert looks <= 8 * count


def test_a_worker_s_processes_share_its_part() -> None:
    """Processes of worker 1 of 2 own together what it owns, whatever the others have."""
    turns = Rank(1, 2, locked=False).turns(3)
    owned = [shard for each in turns for shard in order(cast(Numbered, each), 12, *range(12))]
    assert sorted(owned) == [1, 3, 5, 7, 9, 11]
    assert Rank(1, 2).turns(3) == [Locked(1, 2), Locked(1, 3), Locked(2, 3)]
    begun = [next(iter(each.order(job_of(12), missing_of(*range(12)), 0))).start // 2 for each in Rank(1, 2).turns(3)]
    assert begun == [6, 4, 8]


LAUNCHED: list[tuple[dict[str, str], tuple[int, int]]] = [
    ({}, (0, 1)),
    ({"RANK": "3", "WORLD_SIZE": "4", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, (3, 4)),
    ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, (1, 2)),
    ({"SLURM_ARRAY_TASK_ID": "64", "SLURM_ARRAY_TASK_COUNT": "64", "SLURM_ARRAY_TASK_MIN": "1"}, (63, 64)),
]


@pytest.mark.parametrize(("environment", "expected"), LAUNCHED, ids=["none", "torchrun", "srun", "array"])
def test_a_launcher_s_numbers(
    environment: dict[str, str], expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without locks a process is the worker that its launcher says; a number of its own goes before."""
    clear(monkeypatch)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Rank.of(Compute(coordination="none")) == (*expected, False)
    assert Rank.of(Compute(coordination="none", worker="5/7")) == (5, 7, False)
    assert Rank.alone(Compute(coordination="none")) == (0, 1, False)
    assert all(Rank.of(Compute(coordination="none", worker=each)).leads for each in ("0/2", "1/2"))


def test_an_array_with_gaps_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Task 5 of 1, 3, 5 is none of three in a row."""
    clear(monkeypatch)
    for name, value in {"ID": "5", "COUNT": "3", "MIN": "1"}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    with pytest.raises(
        ConfigError, match=r"SLURM_ARRAY_TASK_ID=5 of SLURM_ARRAY_TASK_COUNT=3: give compute.worker=K/N"
    ):
        Rank.of(Compute(coordination="none"))


def clear(monkeypatch: pytest.MonkeyPatch) -> None:
    """No launcher's words, as none has started the tests."""
    names: list[Any] = ["RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS"]
    for name in [*names, *(f"SLURM_ARRAY_TASK_{each}" for each in ("ID", "COUNT", "MIN"))]:
        monkeypatch.delenv(name, raising=False)
