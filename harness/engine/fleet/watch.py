"""One job, while workers that share a mailbox compute it: what is left, who has ended, what they answer."""

import time
from typing import Protocol

from tqdm import tqdm

from ..costs import Outcome
from ..job import Job, Missing
from .mailbox import Mailbox
from .orders import Lost, Order, give_up

TRIES = 3  # for each worker that is asked for: ends of workers while nothing is computed
POLL_S = 0.3


class Crew(Protocol):
    """Workers at a mailbox."""

    box: Mailbox
    last_ended: str  # of the one that ended last: how, and its log

    @property
    def count(self) -> int:
        """How many there are to be."""

    def names(self) -> set[str]:
        """Of the workers there are, or that wait for a machine."""

    def running(self) -> set[str]:
        """Of those that do not wait for one, as far as is known."""

    def tend(self) -> int:
        """Replace those that have ended; how many had."""


class Watch:
    """One job, while workers compute it."""

    def __init__(self, job: Job, crew: Crew, order: Order) -> None:
        self.job, self.crew, self.order = job, crew, order
        self.numbers = [crew.box.put(order)]
        self.lost = Outcome(batch_size=job.config.compute.batch_size)
        self.strikes = 0
        self.done: set[str] = set()  # who has answered, when nothing was left to do for them

    def outcomes(self, what: str) -> list[Outcome]:
        """Of every worker that had a part in it, when nothing is left to do."""
        left = self.job.open()
        every = _images(left)
        with tqdm(total=every, unit="image", desc=what, smoothing=0.1) as bar:
            while left:
                begun = time.monotonic()
                self._look_after(left)
                self.done = self.crew.box.done(self.numbers[-1])  # asked before what is left
                before, left = left, self.job.open()
                self.strikes = 0 if _size(left) < _size(before) else self.strikes
                if (more := every - _images(left) - bar.n) > 0:
                    bar.update(more)
                time.sleep(max(POLL_S, time.monotonic() - begun))  # a large store is not asked all the time
        return [*self._answers(), self.lost]

    def _look_after(self, left: Missing) -> None:
        box, number = self.crew.box, self.numbers[-1]
        for answer in box.answers(number):
            if isinstance(answer, Exception):
                raise answer
        self.strikes += self.crew.tend()
        if self.crew.names() <= self.done:  # they saw nothing to do: something has changed since
            self.numbers.append(box.put(self.order))
            self.done = set()
            self.strikes += 1
        if self.strikes >= TRIES * self.crew.count:
            self._give_up(left)

    def _give_up(self, left: Missing) -> None:
        why = f"{self.strikes} workers of Slurm ended while nothing was computed (the last: {self.crew.last_ended})"
        if not any(map(self.crew.box.begun, self.numbers)):
            raise Lost(f"{why}; none had begun")
        names = {name for wanted in left.values() for name in wanted}
        give_up(self.job, left, names, f"{why}: what is open ends them (memory?)", self.lost)

    def _answers(self) -> list[Outcome]:
        """Of those who are at it, which see that nothing is left; one that is requeued meanwhile is not waited for."""
        box, number = self.crew.box, self.numbers[-1]
        while (box.begun(number) - box.done(number)) & self.crew.running():
            self.crew.tend()
            time.sleep(POLL_S)
        every = [answer for number in self.numbers for answer in box.answers(number)]
        for answer in every:
            if isinstance(answer, Exception):
                raise answer
        return [answer for answer in every if isinstance(answer, Outcome)]


def _images(left: Missing) -> int:
    return sum(shard.stop - shard.start for shard in left)


def _size(left: Missing) -> int:
    return sum(len(groups) for wanted in left.values() for groups in wanted.values())
