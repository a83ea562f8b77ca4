"""`make gpu-check`: one script without network or data; embedded networks, and torchvision's with random weights.

First the tables, on the CPU and the GPU of one host (`tables`), then the times, alone (`speed`). What is done is
written at once: a kill keeps it.
"""

import argparse
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from assay.harness.config import ROOT
from assay.harness.engine.determinism import make_deterministic
from assay.harness.engine.processes import cores
from assay.harness.engine.request import pick_device
from assay.harness.results import gate

from bench.gpu import speed, tables
from bench.hardware import FOLDER, hardware

PARTS = ("tables", "speed")
FEW = ("limit=2", "method=[gradcam]", "metric=[pointing_game]")


def main(arguments: list[str]) -> int:
    """Run the parts; the exit code is the gate's for the tables, and at least 1 where a race failed."""
    asked = _parser().parse_args(arguments)
    device = pick_device(asked.device)
    stem = asked.out / hardware(device, asked.threads)
    asked.out.mkdir(parents=True, exist_ok=True)
    codes = []
    if "tables" in asked.parts:
        codes.append(check_tables(str(device), asked, Path(f"{stem}-check.csv")))
    if "speed" in asked.parts:
        make_deterministic(asked.threads)
        codes.append(time_methods(device, asked, Path(f"{stem}.csv")))
    return max(codes)


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    made.add_argument("--device", default="cuda", help="cuda, or cpu to try the script")
    made.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    made.add_argument("--small", action="store_true", help="little networks, images and tables: seconds on a CPU")
    made.add_argument("--out", type=Path, default=FOLDER, help="where the figures go")
    made.add_argument("--scratch", type=Path, default=ROOT / "build" / "gpu", help="results and logs of the tables")
    made.add_argument("--threads", type=int, default=min(8, cores()), help="CPU threads of the timed process")
    made.add_argument("--seconds", type=float, default=240, help="no race begins later")
    return made


def check_tables(device: str, asked: argparse.Namespace, path: Path) -> int:
    """Compare the gate's tables, and write a row for each result that is off."""
    for side in ("cpu", "device"):  # what an earlier run has left there, and nothing else of the folder
        shutil.rmtree(asked.scratch / side, ignore_errors=True)
    names, less = (["ci_csv"], FEW) if asked.small else (tables.experiments(), ())
    found = tables.compare(device, asked.scratch, names, less)
    tables.frame(found.verdict).to_csv(path, index=False)
    print(*gate.lines(found.verdict), *found.failures, f"written: {path}", sep="\n", flush=True)
    return found.code


def time_methods(device: torch.device, asked: argparse.Namespace, path: Path) -> int:
    """Time everything, and write the table anew after each race."""
    every = pd.DataFrame()
    for found in _races(device, asked):
        every = pd.concat([every, found])
        every.round(6).to_csv(path, index=False)
        print(speed.line(found), flush=True)
    bad = every.loc[every["status"] != "", "task"].tolist()
    print(f"not timed: {', '.join(bad) or 'none'}")
    print(
        f"below {speed.TARGET} of the floor: {', '.join(speed.below_target(every)) or 'none'}",
        f"written: {path}",
        sep="\n",
    )
    return int(bool(bad))


def _races(device: torch.device, asked: argparse.Namespace) -> Iterator[pd.DataFrame]:
    return speed.timed(speed.SMALL if asked.small else speed.FULL, device, asked.seconds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
