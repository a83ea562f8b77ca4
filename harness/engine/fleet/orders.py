"""What workers in other processes, or on other machines, are given, and what they give back."""

import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

from ..costs import Outcome
from ..determinism import make_deterministic, watched
from ..job import Job, Missing, Wanted
from ..measure import fail
from ..processes import Rebuild
from ..rank import Rank
from ..turns import Turns

Answer = Outcome | Exception
OURS = "ASSAY_"  # variables that a run reads


@dataclass(frozen=True)
class Order:
    """A job for workers to share. It is pickled.

    folder: the working folder of who gives it, to which a config's paths are relative. variables: of the environment,
    ours alone.
    """

    rebuild: Rebuild
    threads: int
    folder: str
    variables: dict[str, str]

    @classmethod
    def of(cls, job: Job, rebuild: Rebuild) -> "Order":
        """To be carried out as this process would."""
        variables = {name: value for name, value in os.environ.items() if name.startswith(OURS)}
        return cls(rebuild, job.config.compute.threads, str(Path.cwd()), variables)

    def begin(self) -> Job:
        """The job, built in a worker as a helper process builds it."""
        os.chdir(self.folder)
        for name in [name for name in os.environ if name.startswith(OURS)]:
            del os.environ[name]
        os.environ.update(self.variables)
        make_deterministic(self.threads)
        return self.rebuild()


def turns(job: Job, number: int = 0, count: int = 1) -> Turns:
    """How a worker takes the shards of what it is given: as one of `count` that share a job, or all."""
    rank = Rank(number, count, locked=job.config.compute.coordination == "locks")
    return rank.turns(1)[0]


def answered(work: Callable[[], Outcome]) -> Answer:
    """What some work did, or the error that ended it, as something that can be pickled and read back."""
    try:
        with watched() as unstable:
            outcome = work()
    except Exception as error:
        error.add_note(traceback.format_exc())
        return _readable(error)
    outcome.unstable |= unstable
    return outcome


def _readable(error: Exception) -> Exception:
    """The error itself, if it can be pickled and read back; else its text, with its traceback."""
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))
    except Exception:
        told = RuntimeError(f"{type(error).__name__}: {error}")
        told.__notes__ = list(error.__notes__)
        return told
    return error


class Lost(RuntimeError):
    """Workers ended, again and again, without an answer."""


def give_up(job: Job, left: Missing, why: str, outcome: Outcome) -> None:
    """Let what is left have failed: whatever works on it ends."""
    lost: Wanted = {}
    for wanted in left.values():
        for name, groups in wanted.items():
            lost.setdefault(name, set()).update(groups)
    for cell in job.cells:
        try:
            raise Lost(why)
        except Lost as error:  # raised, for its traceback
            fail(cell, lost.get(cell.name, ()), error, outcome)
