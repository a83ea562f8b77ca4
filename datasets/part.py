"""A part of a data set: halves to validate and to test on, images apart from those that a detector is fitted on."""

import hashlib

import numpy as np
from assay.harness.types import Dataset, Sample


class Part:
    """A share of a data set's samples, in their order and under their names.

    The samples are permuted by the seed and cut at start and stop, so that parts of one data set with one seed and
    shares that do not overlap have no sample in common, and together, from 0 to 1, are the whole.

    Args:
        whole: the data set.
        start, stop: the share of it, from 0 to 1, ends rounded to whole samples.
        seed: of the permutation; null: the order as it is.

    Raises:
        ValueError: the shares are no part of 0 to 1, or leave no sample.
    """

    def __init__(self, whole: Dataset, start: float = 0.0, stop: float = 1.0, seed: int | None = 0) -> None:
        if not 0 <= start < stop <= 1:
            raise ValueError(f"start={start}, stop={stop}: give shares with 0 <= start < stop <= 1")
        count = len(whole)
        order = np.arange(count) if seed is None else np.random.default_rng(seed).permutation(count)
        self.indices = np.sort(order[round(start * count) : round(stop * count)])
        if not len(self.indices):
            raise ValueError(f"start={start}, stop={stop} of {count} samples leave none")
        self.whole, self.classes = whole, whole.classes
        self.skipped, self.remarks = (tuple(getattr(whole, name, ())) for name in ("skipped", "remarks"))
        self.name = f"[{start:g}:{stop:g}]" if seed is None else f"[{start:g}:{stop:g}@seed{seed}]"
        self.split = f"{whole.split}{self.name}"

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} samples")
        return self.whole[int(self.indices[index])]

    def fingerprint(self) -> str:
        """Of the whole, and which of its samples these are."""
        digest = hashlib.sha256(self.whole.fingerprint().encode())
        digest.update(self.indices.astype(np.int64).tobytes())
        return digest.hexdigest()[:20]
