"""Several data sets of the same classes as one."""

import hashlib
from collections.abc import Mapping

import numpy as np
from assay.harness.types import Dataset, Sample


class Joined:
    """The samples of each part, one part after the other.

    Args:
        parts: data sets with equal classes, by name; the names are for configs only.
        split: name in tables; how many unreadable images the parts skipped is added to it.
    """

    def __init__(self, parts: Mapping[str, Dataset], split: str) -> None:
        if not parts:
            raise ValueError("parts={}: give at least one data set")
        self.parts = list(parts.values())
        self.skipped = tuple(why for part in self.parts for why in getattr(part, "skipped", ()))
        self.split = f"{split}-{len(self.skipped)}unreadable" if self.skipped else split
        self.classes = self.parts[0].classes
        if any(list(part.classes) != list(self.classes) for part in self.parts):
            raise ValueError(f"{', '.join(parts)} have different classes, so a label would mean two things")
        self.ends = np.cumsum([len(part) for part in self.parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} samples")
        part = int(np.searchsorted(self.ends, index, side="right"))
        return self.parts[part][index - (int(self.ends[part - 1]) if part else 0)]

    def fingerprint(self) -> str:
        """Of all parts, in order."""
        return hashlib.sha256(" ".join(part.fingerprint() for part in self.parts).encode()).hexdigest()[:20]
