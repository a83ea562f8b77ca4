"""Images of one's own with boxes: a folder and one file."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from assay.harness.types import Sample
from PIL import Image

from .annotations import boxes_by_class, difficult_flags, outside
from .box_files import HINT, Boxed, read_box_file
from .decoding import DataError, Reading
from .images import Transform
from .listing import files_fingerprint, read_classes

OVER_PX = 1.0  # by which a box may reach beyond its image; tools round


class BoxedFolder:
    """The images that a file of boxes names; the targets of an image are the classes of its boxes.

    `difficult` is the pointing game's flag, from the boxes. A JSON's crowds belong to the region of their class and
    make it no target.

    Args:
        root: the folder.
        boxes: the file, relative to root: a .csv with the columns image, class, x0, y0, x1, y1 (half-open pixel
            edges), or a .json as COCO's instances with any categories.
        images: folder that the file's names of images are relative to, relative to root.
        classes: text file with the names of the classes, one a line, in the order of the network's outputs, relative
            to root; null: a CSV's names in alphabetical order, a JSON's by category id.
        split: name of the split in tables.
        transform: settings of `datasets.images.Transform`.
        orientation: which pixels the boxes are counted in: `stored`, as they lie in the file, or `upright`, as a
            viewer shows a photograph with an EXIF orientation.
        unreadable: as of `datasets.folder.Folder`.

    Raises:
        DataError: a file is missing or malformed, a class is not in the list, a box is none or lies outside its image,
            an image has another size than the JSON says.
    """

    def __init__(
        self,
        root: str,
        boxes: str = "boxes.csv",
        images: str = ".",
        classes: str | None = None,
        split: str = "all",
        transform: Mapping[str, Any] | None = None,
        orientation: str = "stored",
        unreadable: str = "refuse",
    ) -> None:
        self.root, self.file = Path(root).expanduser(), Path(root).expanduser() / boxes
        self.reading, self.transform = Reading.of(orientation, unreadable), Transform.of(transform)
        found = read_box_file(self.file)
        self.classes: Sequence[str] = read_classes(self.root / classes) if classes else found.classes
        self.index_of = {name: index for index, name in enumerate(self.classes)}
        paths = [self._path(each, images) for each in found.images]
        if repeated := [path for path, count in Counter(paths).items() if count > 1]:
            raise DataError(f"{self.file} has {repeated[0]} as two images: give each its own name")
        named = dict(zip(paths, found.images, strict=True))
        kept = self.reading.sift(list(named), self.reading.failure, self.root)
        self.paths, self.skipped, self.split = kept.items, kept.skipped, kept.split(split)
        self.images = [self._known(named[path]) for path in self.paths]

    def _path(self, image: Boxed, folder: str) -> Path:
        path = self.root / folder / image.name
        where = image.placed[0].where if image.placed else self.file
        if Path(image.name).is_absolute() or ".." in Path(image.name).parts:
            raise DataError(f"{where}: {image.name} is no name below {self.root / folder}")
        if not path.is_file():
            raise DataError(f"{where}: no image at {path.absolute()}. {HINT}")
        return path

    def _known(self, image: Boxed) -> Boxed:
        """The image, if all its classes are known."""
        for box, where in image.placed:
            if box.name not in self.index_of:
                raise DataError(f"{where}: class {box.name!r} is none of {', '.join(self.classes)}")
        return image

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        path, boxed = self.paths[index], self.images[index]
        image = self.reading.image(path, self.paths)
        self._check_size(path, image, boxed)
        framed, objects = self.transform(image), [each.box for each in boxed.placed]
        boxes = boxes_by_class(objects, self.index_of, framed)
        clear = boxes_by_class([each for each in objects if not each.difficult], self.index_of, framed)
        flags = difficult_flags(clear, framed.size0)
        return Sample(boxed.name, framed.image, tuple(clear), framed.size0, boxes, difficult=flags)

    def _check_size(self, path: Path, image: Image.Image, boxed: Boxed) -> None:
        """The file has the size that its annotation says, and its boxes lie in it."""
        way = f"width x height, orientation={self.reading.orientation}"
        about = f"{path} has {image.width}x{image.height} pixels ({way})"
        mend = "use the image that was annotated, or the other orientation=stored|upright"
        if boxed.size is not None and boxed.size != image.size:
            raise DataError(f"{about}, {self.file} says {boxed.size[0]}x{boxed.size[1]}: {mend}")
        for box, where in boxed.placed:
            if outside(box.edges, image.size, OVER_PX):
                raise DataError(f"{where}: {box.edges} lies outside; {about}: {mend}")

    def fingerprint(self) -> str:
        """Names and sizes of the images, contents of the file of boxes, and the classes."""
        files = files_fingerprint(self.root, self.paths, [self.file])
        return hashlib.sha256(f"{files} {list(self.classes)}".encode()).hexdigest()[:20]
