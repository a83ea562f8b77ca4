"""What a store holds, and what of it cannot be read."""

from pathlib import Path
from typing import NamedTuple

from ..places import folders_in
from .damage import Damaged, Incomplete
from .fits import FITS
from .identity import SCHEMA
from .journal import NOTES
from .store import FEATURES, CellStore

NO_CELLS = frozenset({FEATURES, FITS, NOTES})  # folders beside the cells


class Survey(NamedTuple):
    """Cells that this version reads, cells of another version, cells whose description is damaged, or is not there."""

    cells: list[CellStore]
    outdated: list[CellStore]
    damaged: list[CellStore]
    nameless: list[CellStore]


def survey(root: Path) -> Survey:
    """All cells below a store's root; damaged descriptions are named."""
    made = Survey([], [], [], [])
    for name in sorted(folders_in(root) - NO_CELLS):
        cell = CellStore(root, name)
        _place(cell, made).append(cell)
    return made


def _place(cell: CellStore, made: Survey) -> list[CellStore]:
    """The part of a survey that a cell belongs to."""
    try:
        schema = cell.cell()["identity"]["schema"]
    except Damaged as damage:
        if cell.is_unsealed():
            return made.outdated
        damage.tell()
        return made.damaged
    except Incomplete:
        return made.nameless
    return made.cells if schema == SCHEMA else made.outdated


def cells(root: Path) -> list[CellStore]:
    """Every cell below a store's root that this version reads."""
    return survey(root).cells


def caches(root: Path) -> list[CellStore]:
    """Features of data sets, as cells without a description."""
    return [CellStore(root / FEATURES, name) for name in sorted(folders_in(root / FEATURES))]
