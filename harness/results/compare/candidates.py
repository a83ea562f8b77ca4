"""Cells that can be compared: who they are, whether they saw the same images, and what tells their settings apart."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...config import ConfigError, suggest
from ...store.store import CellStore
from ...store.survey import cells
from ..settings import apart, cell_settings

PLACE = ("model", "dataset", "protocol")  # labels by which a row says where it is from
SHARED = (*PLACE, "seed", "precision")  # labels of two cells whose samples pair
DATA = ("model", "dataset")  # of the identity
SHORTEST_KEY = 6  # of the beginning of a cell key, in characters

Known = dict[str, "Candidate"]  # cell key -> cell


@dataclass(frozen=True, eq=False)
class Candidate:
    """A stored cell with what it says of itself."""

    store: CellStore
    labels: dict[str, Any]
    identity: dict[str, Any]

    @classmethod
    def of(cls, store: CellStore) -> "Candidate":
        """From its description."""
        about = store.cell()
        return cls(store, about["labels"], about["identity"])

    @property
    def method(self) -> str:
        """Its name, as tables show it."""
        return str(self.labels["method"])

    def is_called(self, name: str) -> bool:
        """Whether a name means it: its method's, or the beginning of its key."""
        return self.method == name or (len(name) >= SHORTEST_KEY and self.store.key.startswith(name))

    def shares_images(self, other: "Candidate") -> bool:
        """Whether both are of the same images in the same order under the same network and conventions."""
        same_names = all(self.labels[key] == other.labels[key] for key in SHARED)
        return same_names and all(self.identity[key] == other.identity[key] for key in DATA)

    def is_comparable(self, other: "Candidate") -> bool:
        """Whether their samples pair: two methods fitted on the same data if both are, or settings of one method."""
        fits = [each.identity["training"] for each in (self, other) if "training" in each.identity]
        fair = self.method == other.method or len(fits) < 2 or fits[0] == fits[1]
        return self.store.key != other.store.key and self.shares_images(other) and fair

    def unlike(self, others: Iterable["Candidate"]) -> str:
        """What others of the same method and place have otherwise: `layer=features.28, steps=8`."""
        rivals = [each for each in others if each.method == self.method and self._is_in_place_of(each)]
        return apart([cell_settings(each.labels, each.identity) for each in (self, *rivals)])[0]

    def _is_in_place_of(self, other: "Candidate") -> bool:
        return all(self.labels[key] == other.labels[key] for key in PLACE)


def known_cells(root: Path) -> Known:
    """Every cell of a store."""
    return {cell.key: Candidate.of(cell) for cell in cells(root)}


def called(known: Known, name: str) -> list[Candidate]:
    """The cells that a name means.

    Raises:
        ConfigError: none.
    """
    found = [each for each in known.values() if each.is_called(name)]
    if not found:
        raise ConfigError(suggest(name, {each.method for each in known.values()}, "method with results"))
    return found
