"""One job, while workers that share a mailbox compute it: what is left, who has ended, what they answer."""

import time
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from ..costs import Outcome
from ..job import Job, Missing
from .mailbox import Mailbox
from .orders import Lost, Order, give_up

TRIES = 3  # for each worker that is asked for: ends of workers while nothing is computed
POLL_S = 0.3
OLD_S = 120.0  # nothing is given up sooner: NFS shows a folder, or says that there is no such file, as of a minute ago
RECALL_S = 5.0  # between two orders of the same
ANSWERS_S = 60.0  # for answers when nothing is left: they say what it took

clock = time.monotonic


class Crew(Protocol):
    """Workers at a mailbox."""

    box: Mailbox
    logs: Path
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
        self.strikes = self.recalls = 0  # workers that ended, orders given again, since something was seen to be done
        self.since = self.recalled = -OLD_S  # the first of these; the last order
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
                if _size(left) < _size(before):
                    self.strikes = self.recalls = 0
                if (more := every - _images(left) - bar.n) > 0:
                    bar.update(more)
                time.sleep(max(POLL_S, time.monotonic() - begun))  # a large store is not asked all the time
        return [*self._answers(), self.lost]

    def _look_after(self, left: Missing) -> None:
        box, number = self.crew.box, self.numbers[-1]
        for answer in box.answers(number):
            if isinstance(answer, Exception):
                raise answer
        calm = not self.strikes + self.recalls
        self.strikes += self.crew.tend()
        if self.crew.names() <= self.done and clock() - self.recalled >= RECALL_S:  # they saw nothing to do
            self.numbers.append(box.put(self.order))
            self.done, self.recalled = set(), clock()
            self.recalls += 1
        if calm:
            self.since = clock()
        if self.strikes + self.recalls:
            self._judge(left)

    def _judge(self, left: Missing) -> None:
        """Give up what ends all workers; never what only this machine does not see."""
        many = self.strikes >= TRIES * self.crew.count
        why = f"{self.strikes} workers of Slurm ended while nothing was computed (the last: {self.crew.last_ended})"
        if many and not any(map(self.crew.box.begun, self.numbers)):
            raise Lost(f"{why}; none had begun")
        if clock() - self.since < OLD_S or not (many or self.recalls):
            return
        truly = self.job.truly(left)
        if not many or not truly:
            raise Lost(self._unseen(left, truly))
        give_up(self.job, truly, f"{why}: what is open ends them (memory?)", self.lost)

    def _unseen(self, left: Missing, truly: Missing) -> str:
        """Workers and this machine do not see the same."""
        shard, wanted = next(iter((truly or left).items()))
        place = next(cell.store.path for cell in self.job.cells if cell.name in wanted)
        there = "not there" if truly else "there when asked for by name, but not in the listing of their folder"
        return (
            f"workers of Slurm have answered {self.recalls + 1} times that nothing is left to do, but here columns are "
            f"{there} after {OLD_S:g} s (the first: {', '.join(sorted(wanted))} on images {shard.start} to "
            f"{shard.stop - 1}, {place}): is it one folder for all machines? Their logs: {self.crew.logs}"
        )

    def _answers(self) -> list[Outcome]:
        """Of those who are at it, which see that nothing is left; one that is requeued meanwhile is not waited for."""
        box, number, until = self.crew.box, self.numbers[-1], clock() + ANSWERS_S
        while (box.begun(number) - box.done(number)) & self.crew.running() and clock() < until:
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
