"""Interleaved timing: every contestant once a round, so that a drifting machine slows all of them alike."""

import time
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import torch

ROUNDS = 5
CPU = torch.device("cpu")


def race(
    task: str,
    contestants: Mapping[str, Callable[[], object]],
    rounds: int = ROUNDS,
    device: torch.device = CPU,
    clock: Callable[[], float] = time.perf_counter,
) -> pd.DataFrame:
    """Median seconds of each contestant over `rounds` rounds after a warm-up, and its ratio to the first, the floor.

    The ratio is the median over rounds of the ratios within a round. The device is waited for at both ends.
    clock: seconds; `time.process_time` of one thread leaves out what other work takes.
    """
    for run in contestants.values():
        run()
    seconds = {name: np.empty(rounds) for name in contestants}
    for number in range(rounds):
        for name, run in contestants.items():
            start = _now(device, clock)
            run()
            seconds[name][number] = _now(device, clock) - start
    floor = next(iter(seconds.values()))
    return pd.DataFrame(
        [
            {
                "task": task,
                "contestant": name,
                "median_s": float(np.median(each)),
                "min_s": float(each.min()),
                "max_s": float(each.max()),
                "ratio_to_floor": float(np.median(each / floor)),
            }
            for name, each in seconds.items()
        ]
    )


def _now(device: torch.device, clock: Callable[[], float]) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock()
