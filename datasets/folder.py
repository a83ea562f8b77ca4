"""A plain folder of images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .images import DataError, LabelledFiles, check_files, image_files

HINT = "Put images at <root>/<class>/*.jpg, or directly at <root> with dataset.labels=none; then dataset.root=/path."


class Folder(LabelledFiles):
    """Images below a folder; no boxes.

    Args:
        root: the folder.
        labels: `folder` (an image's class is the name of the folder it lies in) or `none` (no labels, as for
            out-of-distribution images).
        wnids: text file with the names of the class folders, one a line, in the order of the network's outputs,
            relative to root; null: the folders' own names in alphabetical order.
        split: name of the split in tables.
        transform: settings of `datasets.images.Transform`.
        expected_count: how many images there must be; null: any number.
        expected_listing: digest of the images' names and sizes (`files_fingerprint`); null: any.

    Raises:
        DataError: the folder or the list is missing, there is no image, a class is not in the list, or the images are
            not the expected ones.
    """

    def __init__(
        self,
        root: str,
        labels: str = "folder",
        wnids: str | None = None,
        split: str = "all",
        transform: Mapping[str, Any] | None = None,
        expected_count: int | None = None,
        expected_listing: str | None = None,
    ) -> None:
        if labels not in ("folder", "none"):
            raise DataError(f"labels={labels!r}: choose folder or none")
        folder = Path(root).expanduser()
        if not folder.is_dir():
            raise DataError(f"no folder at {folder.absolute()}. {HINT}")
        files = image_files(folder)
        if not files:
            raise DataError(f"no images below {folder.absolute()}. {HINT}")
        check_files(folder, files, expected_count, expected_listing)
        classes = _listed(folder / wnids) if wnids else sorted({path.parent.name for path in files})
        labelled = [(path, _label(path, folder, classes) if labels == "folder" else None) for path in files]
        super().__init__(folder, labelled, classes if wnids or labels == "folder" else (), split, transform)


def _listed(path: Path) -> list[str]:
    if not path.is_file():
        raise DataError(f"no list of class folders at {path.absolute()}: write one name a line, or dataset.wnids=null")
    return path.read_text().split()


def _label(path: Path, root: Path, classes: list[str]) -> int:
    if path.parent == root:
        raise DataError(f"{path} lies in no class folder. {HINT}")
    if path.parent.name not in classes:
        raise DataError(f"{path}: class folder {path.parent.name!r} is not in the list of {len(classes)} names")
    return classes.index(path.parent.name)
