"""`python -m bench`: run all races and write a table whose name carries the hardware."""

import os
from itertools import chain

import pandas as pd
import torch
from assay.harness.engine.determinism import keep_freed_memory

from bench.hardware import FOLDER, hardware
from bench.timing import CPU


def main() -> None:
    """Print and write bench/results/<device>-<cores>c-torch<version>.csv, after each race: all take most of an hour."""
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    keep_freed_memory()  # as a run does; for the floors and the peers as well
    from bench import attribution, cams, conductance, harness_overhead, perturbation, relevance, transformers

    path, parts = FOLDER / f"{hardware(CPU, threads)}.csv", list[pd.DataFrame]()
    path.parent.mkdir(exist_ok=True)
    races = (attribution, relevance, transformers, cams, perturbation, conductance, harness_overhead)
    for part in chain.from_iterable(race.tasks() for race in races):
        print(part.to_string(index=False, float_format="{:.3f}".format), "\n", flush=True)
        parts.append(part)
        pd.concat(parts).round(4).to_csv(path, index=False)
    print(f"written: {path}")


if __name__ == "__main__":
    main()
