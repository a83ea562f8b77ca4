"""Which of several cooperating processes this is."""

import os
from collections.abc import Mapping
from typing import NamedTuple

from ..config import Compute, ConfigError
from ..reading import worker_of
from ..store.files import started_by
from .turns import Locked, Numbered, Turns

# Where launchers say which of how many a process is, counted from what: torchrun; an array of jobs; srun.
LAUNCHERS = (
    ("RANK", "WORLD_SIZE", ""),
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN"),
    ("SLURM_PROCID", "SLURM_NTASKS", ""),
)


class Rank(NamedTuple):
    """Which of several cooperating processes this is, from 0 on, and how they share their work.

    locked: through locks, and the first writes tables (torchrun); otherwise by number, and each may finish the work.
    """

    number: int
    world: int
    locked: bool = True

    @classmethod
    def of(cls, compute: Compute) -> "Rank":
        """This process' place, as its launcher or `compute.worker` says it; 0 of 1 without any."""
        if compute.coordination == "locks":
            return cls.from_environment()
        return cls(*(worker_of(compute.worker) or _launched(os.environ)), locked=False)

    @classmethod
    def alone(cls, compute: Compute) -> "Rank":
        """0 of 1, whatever has launched this process, unless `compute.worker` says otherwise."""
        return cls(*(worker_of(compute.worker) or (0, 1)), locked=compute.coordination == "locks")

    @classmethod
    def from_environment(cls) -> "Rank":
        """Rank 0 of 1 outside of torchrun."""
        return cls(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))

    @property
    def leads(self) -> bool:
        """Whether it writes tables, fits and scores: one of those that share locks does, and each without them."""
        return self.number == 0 or not self.locked

    @property
    def launch(self) -> str:
        """What the ranks of one torchrun have in common on this host; empty for a process alone."""
        return started_by() if self.world > 1 and self.locked else ""

    def turns(self, processes: int) -> list[Turns]:
        """Of this process, and of its helpers, each from its own place in the list of shards."""
        if self.locked:
            return [Locked(self.number, self.world), *(Locked(each, processes) for each in range(1, processes))]
        world = self.world * processes
        return [Numbered(self.number + self.world * each, world) for each in range(processes)]


def _launched(environment: Mapping[str, str]) -> tuple[int, int]:
    """What a launcher says; 0 of 1 without any.

    Raises:
        ConfigError: an array of jobs whose numbers have gaps.
    """
    for number, count, first in LAUNCHERS:
        if number in environment and count in environment:
            place, world = int(environment[number]) - int(environment.get(first, 0)), int(environment[count])
            if not 0 <= place < world:
                raise ConfigError(f"{number}={environment[number]} of {count}={world}: give compute.worker=K/N")
            return place, world
    return 0, 1
