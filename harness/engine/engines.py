"""Who computes what a job lacks: processes of this machine, actors of Ray, workers of Slurm."""

import importlib.util
import shutil
from collections.abc import Callable
from typing import NamedTuple, Protocol

from ..config import ConfigError, RunConfig
from .costs import Outcome
from .job import Job
from .processes import Rebuild
from .rank import Rank


class Engine(Protocol):
    """Computes all that a job lacks."""

    def __call__(self, job: Job, rank: Rank, rebuild: Rebuild, what: str) -> Outcome:
        """Every missing shard is in the store afterwards, or its failure is.

        rebuild: makes the job anew in another process; it is pickled. what: shown beside the progress bar.
        """


def _local() -> Engine:
    from .processes import compute

    return compute


def _ray() -> Engine:
    from .fleet.actors import compute

    return compute


def _slurm() -> Engine:
    from .fleet.scheduled import compute

    return compute


class Offer(NamedTuple):
    """An engine of `compute.engine`, imported when it is used; the package and the program that it needs, if any."""

    engine: Callable[[], Engine]
    package: str = ""
    program: str = ""


ENGINES = {"local": Offer(_local), "ray": Offer(_ray, "ray"), "slurm": Offer(_slurm, "submitit", "sbatch")}


def compute(job: Job, rank: Rank, rebuild: Rebuild, what: str) -> Outcome:
    """Evaluate what is missing of a job, by the engine of its config."""
    check_engine(job.config, rank)
    return ENGINES[job.config.compute.engine].engine()(job, rank, rebuild, what)


def check_engine(config: RunConfig, rank: Rank) -> None:
    """Raise ConfigError where the engine cannot work here; before anything is built."""
    name = config.compute.engine
    offer = ENGINES[name]
    if offer.package and importlib.util.find_spec(offer.package) is None:
        raise ConfigError(
            f"compute.engine={name} needs the package {offer.package}: pip install 'assay-harness[{name}]'"
        )
    if offer.program and shutil.which(offer.program) is None:
        raise ConfigError(
            f"compute.engine={name}: no {offer.program} on the PATH; start this on a machine that gives jobs to Slurm"
        )
    if name != "local" and rank.world > 1:
        raise ConfigError(
            f"compute.engine={name} in process {rank.number} of {rank.world} (torchrun, srun, compute.worker): workers "
            "are the engine's affair; leave one of the two out"
        )
