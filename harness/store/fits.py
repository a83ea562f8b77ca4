"""What fits left: a safetensors file each."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..places import exists, matching, remove
from .files import Lock
from .sealed import CHECKSUM, SEAL, read_sealed, write_sealed

if TYPE_CHECKING:  # who lists fits waits for no torch
    from torch import Tensor


FITS = "fits"  # the folder


class Fit:
    """The state of one fitted method, `<root>/fits/<key>.safetensors`."""

    def __init__(self, root: Path, key: str) -> None:
        self.path = root / FITS / f"{key}.safetensors"

    def exists(self) -> bool:
        """Whether it was made."""
        return exists(self.path)

    def read(self) -> "dict[str, Tensor]":
        """Tensors by name, on the CPU.

        Raises:
            Damaged: the file is not as it was written. Incomplete: it has gone.
        """
        from safetensors.torch import load

        return load(read_sealed(self.path))

    def write(self, state: "dict[str, Tensor]") -> None:
        """Put it, whole or not at all."""
        from safetensors.torch import save

        tensors = {name: value.contiguous() for name, value in state.items()}
        write_sealed(self.path, save(tensors, {CHECKSUM: SEAL}))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold its lock, waiting for whoever does: of several processes one makes the fit."""
        lock = Lock(self.path.parent / "locks" / f"{self.path.stem}.lock")
        lock.wait()
        try:
            yield
        finally:
            lock.release()

    def remove(self) -> None:
        """Forget it; harmless when it is not there."""
        remove(self.path)


def fits(root: Path) -> Iterator[Path]:
    """Files of all fits below a store's root."""
    yield from matching(root / FITS, "*.safetensors")
