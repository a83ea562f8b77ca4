"""`python -m bench [MODULE ...]`: all races, or those of some modules, into a table whose name carries the hardware."""

import argparse
import os
from collections.abc import Iterator, Sequence
from importlib import import_module

import pandas as pd
import torch
from assay.harness.engine.determinism import keep_freed_memory

from bench.hardware import FOLDER, hardware
from bench.timing import CPU

RACES = ("attribution", "relevance", "transformers", "cams", "perturbation", "conductance", "harness_overhead")


def main() -> None:
    """Print and write bench/results/<device>-<cores>c-torch<version>.csv, after each race: all take most of an hour.

    Of some modules alone, the rows of other tasks stay.
    """
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"of {', '.join(RACES)}; without one all of them")
    chosen = parser.parse_args().modules
    if unknown := sorted({*chosen} - {*RACES}):
        parser.error(f"no module {', '.join(unknown)}: choose of {', '.join(RACES)}")
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    keep_freed_memory()  # as a run does; for the floors and the peers as well
    path = FOLDER / f"{hardware(CPU, threads)}.csv"
    path.parent.mkdir(exist_ok=True)
    table = pd.read_csv(path) if chosen and path.exists() else pd.DataFrame({"task": []})
    for part in _parts(chosen or RACES):
        print(part.to_string(index=False, float_format="{:.3f}".format), "\n", flush=True)
        table = pd.concat([table[~table["task"].isin(part["task"])], part.round(4)])
        table.to_csv(path, index=False)
    print(f"written: {path}")


def _parts(modules: Sequence[str]) -> Iterator[pd.DataFrame]:
    for module in modules:
        yield from import_module(f"bench.{module}").tasks()


if __name__ == "__main__":
    main()
