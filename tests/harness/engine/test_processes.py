"""Several processes of one run: how they end together, and what they say of themselves."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from multiprocessing import resource_sharer
from pathlib import Path
from typing import Any, cast

import forks
import pandas as pd
import pytest
import torch
from assay.harness.engine import shards
from assay.harness.engine.costs import Cost, Outcome, merge
from assay.harness.engine.determinism import deterministic, make_deterministic, watched
from assay.harness.engine.machine import Where
from torch.utils.data import DataLoader

ROOT = Path(__file__).resolve().parents[3]
SMALL = ["compute.device=cpu", "limit=24", "compute.shard_size=2", "metric=[pointing_game]"]

FAILS_ON_RANK_1 = '''
"""A method that fails on rank 1, once both ranks are at work; rank 0 takes its time."""
import os, time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
import torch
from assay.harness.types import Attribution, Needs


@dataclass(frozen=True)
class Fails:
    VERSION: ClassVar[int] = 1

    def needs(self):
        return Needs()

    def attribute(self, forward, targets, rng):
        rank, meeting = int(os.environ["RANK"]), Path(os.environ["ASSAY_TEST_MEETING"])
        (meeting / f"rank{rank}").touch()
        while not (meeting / f"rank{1 - rank}").exists():  # rank 0 forgives earlier failures as it begins
            time.sleep(0.02)
        if rank == 1:
            raise RuntimeError("planted on rank 1")
        time.sleep(0.2)
        return Attribution(torch.zeros(len(targets.image), 8, 8))
'''


def test_a_method_that_fails_on_another_rank_is_told_by_rank_0(tmp_path: Path) -> None:
    """A real torchrun of two processes: rank 1 fails and goes; rank 0 lives to summarise, and says what failed.

    Were rank 1 to leave with an exit code of its own, torchrun would end rank 0 at once, without tables. Rank 1, which
    has nothing left to do, may be the slower one to leave: torchrun then ends it.
    """
    (tmp_path / "fails.py").write_text(FAILS_ON_RANK_1)
    (tmp_path / "conf/method").mkdir(parents=True)
    (tmp_path / "conf/method/fails.yaml").write_text("# @package method.fails\n_target_: fails.Fails\n")
    launcher = Path(sys.executable).with_name("torchrun")
    assert launcher.exists() or shutil.which("torchrun")
    words = ["--config-dir", str(tmp_path / "conf"), "--allow-target", "fails.", "method=[fails,center]", *SMALL]
    done = subprocess.run(
        [str(launcher), "--nproc-per-node", "2", str(ROOT / "run.py"), *words, f"results={tmp_path}"],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(tmp_path),
            "OMP_NUM_THREADS": "1",
            "ASSAY_TEST_MEETING": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "FAILED fails: RuntimeError: planted on rank 1" in done.stderr
    first = done.stderr.partition("Root Cause (first observed failure):")[2]
    assert re.search(r"rank +: 0 .*\n *exitcode +: 1 ", first)  # rank 0's own, after its tables
    frame = pd.read_csv(tmp_path / "tidy/results.csv")
    assert frame[frame.method == "fails"].status.str.contains("planted on rank 1").all()
    assert frame[frame.method == "center"].status.eq("ok").all() and (frame.method == "center").any()


def test_an_interrupt_is_one_line_and_leaves_nobody_behind(tmp_path: Path) -> None:
    """Ctrl-C reaches the whole process group, loaders and helpers too: exit code 130, one line, all gone soon; the same
    command then computes only the rest."""
    settings = ["method=[integrated_gradients]", "method.integrated_gradients.steps=128", "compute.processes=2"]
    words = [*SMALL, *settings, "limit=12", "compute.workers=1", f"results={tmp_path}"]  # six shards
    command = [sys.executable, str(ROOT / "run.py"), *words]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_heed_interrupts,
    )
    while process.poll() is None and len(list((tmp_path / "store").rglob("*.parquet"))) < 3:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    gone = time.monotonic() + 30  # a loader whose helper was killed looks every five seconds
    while _is_alive(process.pid) and time.monotonic() < gone:
        time.sleep(0.02)
    assert not _is_alive(process.pid)
    assert process.returncode == 130
    lines = [line for line in errors.replace("\r", "\n").splitlines() if line and "|" not in line]  # without the bar
    assert lines == ["interrupted: the same command resumes"]
    assert "6 shards computed" not in forks.run(*words, "compute.processes=1", "compute.workers=0").output()


class _HungUpOn:
    """A data set whose loader's process is asked for a file descriptor by one who leaves in the middle, then by us."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        with open(os.devnull) as file:
            asked, then = (resource_sharer.DupFd(file.fileno()) for _ in range(2))
        with socket.socket(socket.AF_UNIX) as gone:
            gone.connect(asked._id[0])  # type: ignore[attr-defined]
        os.close(then.detach())  # served behind the other
        return index


def test_a_loader_says_nothing_of_who_was_interrupted(capfd: pytest.CaptureFixture[str]) -> None:
    """Its thread that hands tensors over would print a traceback, as it does without our word to it."""
    for init, told in ((None, True), (shards._say_nothing_of_partings, False)):
        loader = DataLoader(cast(Any, _HungUpOn()), num_workers=1, collate_fn=list, worker_init_fn=init)
        assert list(loader) == [[0]]
        assert ("resource_sharer" in capfd.readouterr().err) == told


def _heed_interrupts() -> None:
    """What a shell starts in the background ignores interrupts, and so does all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _is_alive(group: int) -> bool:
    """Whether a process of the group is there still; one that only waits for its parent to ask after it is not."""
    states = subprocess.run(["ps", "-o", "stat=", "-g", str(group)], capture_output=True, text=True).stdout.split()
    return any(not state.startswith("Z") for state in states)


def test_memory_of_helpers_counts(tmp_path: Path) -> None:
    """A run of two processes records about twice what a run of one records: both hold torch and the network."""
    peaks = []
    for count in (1, 2):
        results = tmp_path / str(count)
        forks.run(*SMALL, "method=[center]", f"compute.processes={count}", f"results={results}")
        (record,) = (results / "runs").glob("*/*.json")
        peaks.append(json.loads(record.read_text())["peak_memory_mb"])
    assert 1.5 < peaks[1] / peaks[0] < 2.5


def test_what_several_did_is_added_up() -> None:
    """Shards, costs, unstable operations, places of all; the smallest batch, the fullest GPU; of a process that tells
    its memory twice the higher."""
    here, there = Where("here", "cpu"), Where("there", "gpu")
    one = Outcome({"a": Cost(1.0, 2, 3)}, {}, set(), 1, 16, {"h": 100.0}, {"x"}, {here}, 7.0)
    peaks = {"h": 90.0, "k": 50.0}
    other = Outcome({"a": Cost(0.5, 4, 5), "b": Cost()}, {"b": "why"}, set(), 2, 8, peaks, {"y"}, {there}, 9.0)
    made = merge([one, other])
    assert made.places == {here, there} and made.gpu_mb == 9.0
    assert (made.shards, made.batch_size, made.helpers_mb, made.unstable) == (3, 8, {"h": 100, "k": 50}, {"x", "y"})
    assert (made.costs["a"].wall_s, made.costs["a"].images, made.costs["a"].pairs) == (1.5, 6, 8)
    assert made.failures == {"b": "why"}


def test_operations_without_a_deterministic_kernel_are_noticed() -> None:
    """By torch's own warning, which names them; other warnings pass on as they are."""
    text = "{} does not have a deterministic implementation, but you set 'torch.use_deterministic_algorithms(True, ...'"
    with pytest.warns(UserWarning, match="something else"), watched() as found:
        warnings.warn(text.format("put_"), UserWarning, stacklevel=1)
        warnings.warn(text.format("adaptive_max_pool2d_backward_cuda"), UserWarning, stacklevel=1)
        warnings.warn("something else", UserWarning, stacklevel=1)
    assert found == {"put_", "adaptive_max_pool2d_backward_cuda"}


def test_torch_does_warn_of_them() -> None:
    """The mark that we look for is what this version of torch writes (an operation that no CPU kernel orders)."""
    with deterministic(1), watched() as found:
        torch.zeros(3).put_(torch.tensor([0]), torch.tensor([1.0]), accumulate=False)
    assert found == {"put_"}


def test_a_callers_settings_come_back() -> None:
    """Threads and the deterministic switch, also when the block raises."""
    torch.use_deterministic_algorithms(False)
    threads = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), deterministic(1):
        assert torch.are_deterministic_algorithms_enabled()
        raise ZeroDivisionError
    assert not torch.are_deterministic_algorithms_enabled() and torch.get_num_threads() == threads
    make_deterministic(1)
