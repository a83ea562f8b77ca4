"""Images named one by one: a user's own, to be scored."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .decoding import DataError, Reading
from .images import LabelledFiles
from .listing import require_files, require_unique


class Files(LabelledFiles):
    """Image files without labels or boxes.

    Args:
        files: their paths.
        split: name of the split in tables.
        transform: settings of `datasets.images.Transform`.
        orientation, unreadable: as of `datasets.folder.Folder`.

    Raises:
        DataError: no file is named, one is named twice, or does not exist.
    """

    def __init__(
        self,
        files: Sequence[str],
        split: str = "files",
        transform: Mapping[str, Any] | None = None,
        orientation: str = "upright",
        unreadable: str = "refuse",
    ) -> None:
        if not files:
            raise DataError("files=[]: name at least one image")
        paths = [Path(file).expanduser().absolute() for file in files]
        require_files(paths, "Give the path of an image.")
        require_unique(map(str, paths), "files")
        reading = Reading.of(orientation, unreadable)
        super().__init__(Path(paths[0].anchor), [(path, None) for path in paths], (), split, transform, reading)
