"""Images that a text file names, a line each with its label: the lists of OpenOOD (Zhang et al. 2023)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .class_names import class_names
from .decoding import DataError, Reading
from .images import LabelledFiles
from .listing import check_files, read_names, require_files, require_unique

LABELS = ("list", "none")


class ImageList(LabelledFiles):
    """Images below a folder, in the order of a list with a line `relative/path label` an image; no boxes.

    Args:
        root: the folder that the paths are relative to.
        list: the text file, relative to root. A label is the class's index; -1 says that there is none.
        labels: `list`, or `none` to read no labels (as for out-of-distribution images).
        classes: names by index, as of `datasets.class_names`.
        split: name of the split in tables.
        transform: settings of `datasets.images.Transform`.
        orientation, unreadable: as of `datasets.folder.Folder`.
        expected_count: how many images the list must name; null: any number.

    Raises:
        DataError: the list or an image is missing, a line is not of that form, leads out of the folder, has a label
            that is no class or names an image again, or the images are not as many as expected.
    """

    def __init__(
        self,
        root: str,
        list: str,
        labels: str = "list",
        classes: str | Sequence[str] | None = None,
        split: str = "test",
        transform: Mapping[str, Any] | None = None,
        orientation: str = "stored",
        unreadable: str = "refuse",
        expected_count: int | None = None,
    ) -> None:
        if labels not in LABELS:
            raise DataError(f"labels={labels!r}: choose {' or '.join(LABELS)}")
        folder, names = Path(root).expanduser(), class_names(classes)
        listed = folder / list
        require_files([listed], f"It names the images to take, a line `relative/path label` each, below {folder}")
        lines = [_Line(listed, number, line, names).read() for number, line in enumerate(read_names(listed), 1)]
        _check(folder, listed, [path for path, _ in lines], expected_count)
        labelled = [(folder / path, label if labels == "list" else None) for path, label in lines]
        super().__init__(folder, labelled, names, split, transform, Reading.of(orientation, unreadable))


def _check(folder: Path, listed: Path, paths: Sequence[str], expected: int | None) -> None:
    """Raise unless the list names some images, as many as expected, each once, and all of them are there."""
    if not paths:
        raise DataError(f"{listed.absolute()} names no image: write a line `relative/path label` for each")
    require_unique(paths, listed)
    files = [folder / path for path in paths]
    check_files(folder, files, expected, None, f"the published list {listed.name}")
    require_files(files, f"Put the images that {listed.absolute()} names at {folder.absolute()}")


class _Line:
    """A line of a list, that is no empty one."""

    def __init__(self, listed: Path, number: int, line: str, classes: Sequence[str]) -> None:
        self.place, self.line, self.classes = f"{listed} line {number}, {line!r}", line, classes

    def read(self) -> tuple[str, int | None]:
        """Path and label."""
        path, _, label = self.line.rpartition(" ")
        if not path.strip() or not label.removeprefix("-").isdecimal():
            raise DataError(f"{self.place}: write `relative/path label`, the label a class's index, or -1 for none")
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise DataError(f"{self.place}: the path leads out of the root, write it relative to the root")
        return path.strip(), self._label(int(label))

    def _label(self, label: int) -> int | None:
        if label < -1 or (self.classes and label >= len(self.classes)):
            raise DataError(f"{self.place}: no class {label}; they are 0 to {len(self.classes) - 1}, and -1 for none")
        return None if label == -1 else label
