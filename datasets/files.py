"""Images named one by one, or by their folders: a user's own, to be scored or explained."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from assay.harness.types import Sample

from .class_names import class_names
from .decoding import DataError, Reading
from .images import LabelledFiles
from .listing import files_fingerprint, image_files, require_files, require_unique, unread_pictures


class Files(LabelledFiles):
    """Image files without labels or boxes.

    Args:
        files: their paths; of a folder, all images below it.
        targets: the classes to be explained in each image, by name or index.
        classes: what the network's outputs are called, as of `datasets.class_names`.
        split: name of the split in tables.
        transform: settings of `datasets.images.Transform`.
        orientation, unreadable: as of `datasets.folder.Folder`.

    Raises:
        DataError: no file is named, one is named twice, or does not exist; a folder without images; no such class.
    """

    def __init__(
        self,
        files: Sequence[str],
        targets: Sequence[str | int] = (),
        classes: str | Sequence[str] | None = None,
        split: str = "files",
        transform: Mapping[str, Any] | None = None,
        orientation: str = "upright",
        unreadable: str = "refuse",
    ) -> None:
        if not files:
            raise DataError("files=[]: name at least one image")
        named = [Path(file).expanduser().absolute() for file in files]
        paths = [path for place in named for path in _images_of(place)]
        require_files(paths, "Give the path of an image, or of a folder of images.")
        require_unique(map(str, paths), "files")
        names, reading = class_names(classes), Reading.of(orientation, unreadable)
        super().__init__(Path(paths[0].anchor), [(path, None) for path in paths], names, split, transform, reading)
        self.targets = tuple(_index(target, names) for target in targets)
        self.remarks = [remark for place in named if place.is_dir() for remark in unread_pictures(place)]

    def __getitem__(self, index: int) -> Sample:
        return replace(super().__getitem__(index), targets=self.targets)

    def fingerprint(self) -> str:
        """The images themselves, as people edit theirs under one name, and what is explained in them."""
        paths = [path for path, _ in self.files]
        files = files_fingerprint(self.root, paths, contents=paths)
        return hashlib.sha256(f"{files} {self.targets}".encode()).hexdigest()[:20]


def _images_of(place: Path) -> Iterator[Path]:
    """The file itself; of a folder, the images below it."""
    if not place.is_dir():
        yield place
        return
    found = image_files(place)
    if not found:
        raise DataError(f"no images below {place}{''.join(f' ({each})' for each in unread_pictures(place))}")
    yield from found


def _index(target: str | int, names: Sequence[str]) -> int:
    """A class by its name, or by its index."""
    if target in names:
        return names.index(str(target))
    if str(target).isdecimal() and int(target) < (len(names) or int(target) + 1):
        return int(target)
    near = f"; its classes are {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}" if names else ""
    raise DataError(f"target {target}: no class has this name or index{near}")
