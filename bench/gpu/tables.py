"""The gate's experiments on two devices of one host, and what of them is not the same within the limits of a GPU."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from assay.harness.config import CONF, ROOT
from assay.harness.engine.processes import cores
from assay.harness.results.gate.comparing import Limits, compare_sides
from assay.harness.results.gate.findings import INCOMPLETE, SAME, Finding, Verdict
from assay.harness.results.gate.sides import PART, current, write_side

LIMITS = "check_gpu.yaml"
OFF = ("kind", "number", "cpu", "device", "said")
LIMIT_S = 180  # of one experiment
LONGEST = ("ci_detectors", "ci_resnet", "ci_embedded", "ci_disconnected", "ci_again")  # are begun first


class Work(NamedTuple):
    """One experiment on one device."""

    experiment: str
    device: str
    folder: Path  # of all results of the device
    overrides: tuple[str, ...]

    @property
    def log(self) -> Path:
        """What it printed."""
        return self.folder.parent / f"{self.folder.name}-{self.experiment}.log"

    def run(self) -> str:
        """Evaluate it in a process of its own, one thread; why it failed, if it did."""
        command = [sys.executable, "run.py", f"experiment={self.experiment}", *self.overrides]
        command += [f"compute.device={self.device}", f"results={self.folder}"]
        with self.log.open("w") as log:
            try:
                done = subprocess.run(command, cwd=ROOT, env=_ENV, stdout=log, stderr=log, timeout=LIMIT_S)
            except subprocess.TimeoutExpired:
                return f"stopped after {LIMIT_S} s"
        return f"exit code {done.returncode}" if done.returncode else ""


_ENV = os.environ | {"OMP_NUM_THREADS": "1"}


def experiments() -> list[str]:
    """All of the gate, the longest first."""
    found = {path.stem for path in (CONF / "experiment").glob("ci_*.yaml")}
    return [name for name in LONGEST if name in found] + sorted(found.difference(LONGEST))


class Compared(NamedTuple):
    """The verdict over both sides, and the runs that failed: what no side has, no verdict misses."""

    verdict: Verdict
    failures: list[str]

    @property
    def code(self) -> int:
        """0 where all agrees."""
        return self.verdict.code or (INCOMPLETE if self.failures else SAME)


def compare(device: str, scratch: Path, names: Sequence[str], overrides: tuple[str, ...] = ()) -> Compared:
    """Run the experiments on the CPU and on the device, as many side by side as there are cores, and compare them.

    In `scratch` stay results and logs of both sides, and each side as a baseline: `cpu.csv.gz`, `device.csv.gz`.

    Raises:
        ConfigError: one side has no results.
    """
    sides = {"cpu": "cpu", "device": device}
    for side in sides:
        (scratch / side).mkdir(parents=True)
    work = [Work(name, on, scratch.absolute() / side, overrides) for name in names for side, on in sides.items()]
    failures = list(_run(work))
    return Compared(_compared(scratch), failures)


def _run(work: Sequence[Work]) -> Iterator[str]:
    """Why those that failed did; each is said when it is done."""
    with ThreadPoolExecutor(cores()) as pool:
        for done, why in zip(work, pool.map(Work.run, work), strict=True):
            print(f"{done.experiment} on {done.device}: {why or 'done'}", flush=True)
            if why:
                yield f"{done.experiment} on {done.device}: {why}: {done.log}"


def _compared(scratch: Path) -> Verdict:
    before, now = current(scratch / "cpu"), current(scratch / "device")
    for side, name in ((before, "cpu"), (now, "device")):
        write_side(side, scratch / f"{name}.csv.gz")
    return compare_sides(before, now, Limits.read(LIMITS))


def frame(verdict: Verdict) -> pd.DataFrame:
    """A row for each result that is off: who, its kind, its first number on both sides, and all that is to be said."""
    return pd.DataFrame([_row(finding) for finding in verdict.wrong], columns=[*PART, *OFF])


def _row(finding: Finding) -> dict[str, object]:
    first = finding.rows[0] if finding.rows else None
    values = (None, None, None) if first is None else (first.place, first.before, first.now)
    return finding.part | dict(zip(OFF, (finding.kind, *values, str(finding)), strict=True))
