"""Which cells' rows have changed since the tidy tables were last brought up to date.

    <root>/changed/<cell key>         a note: the cell's rows changed, or are about to
    <root>/changed/<cell key>.taken   the note, in the hands of who is bringing the tables up to date

A note is put before the change and taken (renamed) before the rows are read, so that neither a kill nor a change in
between is lost: what was taken by a process that died is taken again. In an object store nothing is renamed, and tables
are always made anew of everything: there are no notes.
"""

from pathlib import Path

from ..places import is_remote

NOTES = "changed"  # the folder
_TAKEN = ".taken"


class Journal:
    """The notes of one store."""

    def __init__(self, root: Path) -> None:
        self.path = root / NOTES

    def note(self, cell: str) -> None:
        """The rows of a cell are about to change."""
        if not is_remote(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / cell).touch()

    def take(self) -> set[str]:
        """Keys of the cells that changed; `settle` them when the tables are written."""
        for path in sorted(self.path.glob("*")):
            if path.suffix != _TAKEN:
                path.replace(path.with_name(path.name + _TAKEN))
        return {path.stem for path in self.path.glob(f"*{_TAKEN}")}

    def settle(self, cells: set[str]) -> None:
        """The tables hold these cells' rows."""
        for cell in cells:
            (self.path / f"{cell}{_TAKEN}").unlink(missing_ok=True)
