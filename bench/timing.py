"""Interleaved timing: every contestant once a round, so that a drifting machine slows all of them alike."""

import time
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

ROUNDS = 5


def race(task: str, contestants: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> pd.DataFrame:
    """Median seconds of each contestant over `rounds` rounds after a warm-up, and its ratio to the first, the floor.

    The ratio is the median over rounds of the ratios within a round.
    """
    for run in contestants.values():
        run()
    seconds = {name: np.empty(rounds) for name in contestants}
    for number in range(rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            seconds[name][number] = time.perf_counter() - start
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
