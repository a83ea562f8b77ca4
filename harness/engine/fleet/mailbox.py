"""A folder that a driver and its workers on other machines share: orders in, answers out.

    orders/00000001        an order, pickled; the driver's
    begun/00000001.<name>  a worker is at it
    done/00000001.<name>   its answer, pickled
    beat                   written anew every few seconds while the driver lives
    closed                 no more orders

The files of one command: nothing is read from them once it has ended. Each is put whole. What is pickled is
what a helper process of this machine would be given, and as it would be.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

from ...store.files import write_atomically
from .orders import Answer, Order

BEAT_S = 10.0
ABANDONED_S = 120.0  # without a beat: the driver was killed
POLL_S = 0.3


class Mailbox:
    """One folder, on either side of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    # The driver's side

    def beat(self) -> threading.Event:
        """Say that the driver lives, from a thread that ends with it or when the event is set."""
        stop = threading.Event()

        def write() -> None:
            number = 0
            while not stop.is_set():
                with suppress(OSError):  # a disk that is full now may not be later
                    write_atomically(self.folder / "beat", str(number := number + 1).encode())
                stop.wait(BEAT_S)

        threading.Thread(target=write, daemon=True).start()
        return stop

    def put(self, order: Order) -> int:
        """Put an order; returns its number."""
        number = len(self.orders()) + 1
        write_atomically(self.folder / "orders" / f"{number:08d}", bytes(ForkingPickler.dumps(order)))
        return number

    def close(self) -> None:
        """No more orders: who has nothing to do leaves."""
        write_atomically(self.folder / "closed", b"")

    def begun(self, number: int) -> set[str]:
        """Names of the workers that are, or were, at an order."""
        return {path.suffix[1:] for path in (self.folder / "begun").glob(f"{number:08d}.*")}

    def done(self, number: int) -> set[str]:
        """Names of those that have answered."""
        return {path.suffix[1:] for path in self._answers(number)}

    def answers(self, number: int) -> Iterator[Answer]:
        """What the workers have done of an order, or what ended their work."""
        yield from (ForkingPickler.loads(path.read_bytes()) for path in self._answers(number))

    def _answers(self, number: int) -> list[Path]:
        return sorted((self.folder / "done").glob(f"{number:08d}.*"))

    # Both sides

    def orders(self) -> list[int]:
        """Numbers of the orders there are."""
        return sorted(int(path.name) for path in (self.folder / "orders").glob("[0-9]*"))

    # A worker's side

    def begin(self, number: int, name: str) -> Order:
        """Take an order in hand."""
        write_atomically(self.folder / "begun" / f"{number:08d}.{name}", b"")
        made: Order = ForkingPickler.loads((self.folder / "orders" / f"{number:08d}").read_bytes())
        return made

    def finish(self, number: int, name: str, answer: Answer) -> None:
        """Answer."""
        write_atomically(self.folder / "done" / f"{number:08d}.{name}", bytes(ForkingPickler.dumps(answer)))

    def orders_for(self, name: str) -> Iterator[int]:
        """Orders as they come, of several the last; ends when the driver has closed, or is gone."""
        driver = Heartbeat(self.folder / "beat")
        while not (self.folder / "closed").exists():
            last = max(self.orders(), default=0)
            if last and not (self.folder / "done" / f"{last:08d}.{name}").exists():
                yield last
            elif driver.has_stopped():
                return
            else:
                time.sleep(POLL_S)


class Heartbeat:
    """Whether a file goes on changing, by this machine's clock alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: Any = None
        self.since = time.monotonic()

    def has_stopped(self) -> bool:
        """Whether it has been the same for ABANDONED_S."""
        with suppress(OSError):
            if (now := self.path.read_bytes()) != self.seen:
                self.seen, self.since = now, time.monotonic()
        return time.monotonic() - self.since > ABANDONED_S
