"""A plain folder of images."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .decoding import DataError, Reading
from .images import LabelledFiles
from .listing import check_files, class_folders, image_files, read_classes, unread_pictures

HINT = "Put images at <root>/<class>/*.jpg, or directly at <root> with dataset.labels=none; then dataset.root=/path."
ORDERS = ("text", "number")


class Folder(LabelledFiles):
    """Images below a folder; no boxes.

    Args:
        root: the folder.
        labels: `folder` (an image's class is the name of the folder it lies in) or `none` (no labels, as for
            out-of-distribution images).
        wnids: text file with the names of the class folders, one a line, in the order of the network's outputs,
            relative to root; null: the folders' own names in `order`.
        order: `text` (10 before 2) or `number` (2 before 10) of the class folders, where no list gives it.
        split: name of the split in tables.
        transform: settings of `datasets.images.Transform`.
        orientation: `upright`, as the EXIF of a photograph says, or `stored`.
        unreadable: `refuse` the set, naming every file that cannot be read, or `skip` them and say how many in the
            split's name; to find them every image is read once more.
        expected_count: how many images there must be; null: any number.
        expected_listing: digest of the images' names and sizes (`listing`); null: any.

    Raises:
        DataError: the folder or the list is missing, there is no image, a class folder has none or is not in the list,
            or the images are not the expected ones.
    """

    def __init__(
        self,
        root: str,
        labels: str = "folder",
        wnids: str | None = None,
        order: str = "text",
        split: str = "all",
        transform: Mapping[str, Any] | None = None,
        orientation: str = "upright",
        unreadable: str = "refuse",
        expected_count: int | None = None,
        expected_listing: str | None = None,
    ) -> None:
        _check_choice("labels", labels, ("folder", "none"))
        _check_choice("order", order, ORDERS)
        folder = Path(root).expanduser()
        if not folder.is_dir():
            raise DataError(f"no folder at {folder.absolute()}. {HINT}")
        files = image_files(folder)
        if not files:
            raise DataError(f"no images below {folder.absolute()}. {HINT}")
        check_files(folder, files, expected_count, expected_listing)
        listed = read_classes(folder / wnids) if wnids else None
        classes = _classes(folder, files, listed, order) if labels == "folder" else listed or []
        labelled = [(path, _label(path, folder, classes) if labels == "folder" else None) for path in files]
        super().__init__(folder, labelled, classes, split, transform, Reading.of(orientation, unreadable))
        self.remarks = unread_pictures(folder)


def _check_choice(name: str, value: str, valid: Sequence[str]) -> None:
    if value not in valid:
        raise DataError(f"{name}={value!r}: choose {' or '.join(valid)}")


def _classes(root: Path, files: Sequence[Path], listed: list[str] | None, order: str) -> list[str]:
    """Names by index: the list, or the folders' own; a class folder in which nothing is an image is refused."""
    folders, full = class_folders(root), {path.parent for path in files}
    for folder in folders:
        if folder not in full and (listed is None or folder.name in listed):
            raise DataError(_empty(folder))
    names = {folder.name for folder in folders if folder in full}
    return listed or sorted(names, key=_number if order == "number" else None)


def _empty(folder: Path) -> str:
    found = sorted({path.suffix or path.name for path in folder.iterdir()})
    what = f"only {', '.join(found[:5])}, which Pillow does not read" if found else "nothing in it"
    return (
        f"class folder {folder} has no image but {what}: convert the files, or move the folder out of the root "
        "(without it later classes would have other numbers)"
    )


def _number(name: str) -> list[tuple[int, int, str]]:
    """Sorts the numbers in names by their value: 1, 2, 10."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts if part]


def _label(path: Path, root: Path, classes: list[str]) -> int:
    if path.parent == root:
        raise DataError(f"{path} lies in no class folder. {HINT}")
    if path.parent.name not in classes:
        raise DataError(
            f"{path}: class folder {path.parent.name!r} is not in the list of {len(classes)} names: "
            f"{', '.join(classes[:20])}{', ...' if len(classes) > 20 else ''}"
        )
    return classes.index(path.parent.name)
