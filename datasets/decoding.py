"""Files as pixels: which endings are read, what each kind of image means, and which way up it is."""

import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

ORIENTATIONS = ("upright", "stored")
UNREADABLE = ("refuse", "skip")
WHITE = 65535  # of 16 bits
BROKEN = (  # all that Pillow's readers raise
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, struct.error, Image.DecompressionBombError),
)
SHOWN = 20  # files that an error lists by name


class DataError(ValueError):
    """Data that cannot be used; the message names the file and what to do."""


@cache
def image_endings() -> frozenset[str]:
    """Endings of names, in lower case, of the files that Pillow reads here."""
    return frozenset(ending for ending, form in Image.registered_extensions().items() if _is_read(form))


def _is_read(form: str) -> bool:
    """Not what Pillow only writes, nor what it knows by name alone (HDF5, GRIB, MPEG)."""
    if form == "MPO":
        return True  # by the reader of JPEG
    opener = Image.OPEN.get(form, (None,))[0]
    is_stub = isinstance(opener, type) and issubclass(opener, ImageFile.StubImageFile)
    return opener is not None and not is_stub and form != "MPEG"


def read_image(path: Path, orientation: str = "stored") -> Image.Image:
    """A file as `decode_image` gives it; DataError names a file that is no image."""
    return decode_image(path, str(path), orientation)


def decode_image(source: Path | IO[bytes], name: str, orientation: str = "stored") -> Image.Image:
    """A file or its bytes: RGB, or F (grey, 0 to 255, not rounded) where it has more than 8 bits of grey.

    Alpha is dropped, colours are Pillow's (no ICC profile), and of several frames the first is taken.

    Args:
        name: what an error calls it.
        orientation: `upright` (turned as its EXIF says) or `stored`. A TIFF is turned by Pillow in either case.

    Raises:
        DataError: it is no image, or has values without a meaning: grey of 32 bits outside 0 to 65535, floats
            outside [0,1].
    """
    try:
        with Image.open(source) as image:
            turned = ImageOps.exif_transpose(image) if orientation == "upright" else image
            return _deep(turned) if turned.mode.startswith(("I", "F")) else turned.convert("RGB")
    except BROKEN as error:
        raise DataError(f"{name} cannot be read as an image ({error}): replace or remove the file") from error


def _deep(image: Image.Image) -> Image.Image:
    """Grey of 16 bits, 32 bits or floats as mode F from 0 to 255."""
    values = np.asarray(image).astype(np.float32)
    white = 1 if image.mode == "F" else WHITE
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= white):
        raise ValueError(f"mode {image.mode} with values from {low:g} to {high:g}: white is {white}, rescale them")
    return Image.fromarray(values * np.float32(255 / white))


def to_array(image: Image.Image) -> NDArray[np.float32]:
    """What `decode_image` gives -> float32 [h,w,3] in [0,1]."""
    values = np.array(image, dtype=np.float32) / np.float32(255)
    return values if values.ndim == 3 else np.repeat(values[:, :, None], 3, axis=2)


class Reading(NamedTuple):
    """How the files of a data set are read, and what becomes of those that cannot be.

    orientation: `upright`, as a phone shows a photograph, or `stored`, as boxes are usually counted.
    unreadable: `refuse` the data set, naming all such files, or `skip` them.
    """

    orientation: str = "stored"
    unreadable: str = "refuse"

    @classmethod
    def of(cls, orientation: str, unreadable: str) -> "Reading":
        """Both checked.

        Raises:
            DataError: neither of the choices.
        """
        for name, value, valid in (
            ("orientation", orientation, ORIENTATIONS),
            ("unreadable", unreadable, UNREADABLE),
        ):
            if value not in valid:
                raise DataError(f"{name}={value!r}: choose {' or '.join(valid)}")
        return cls(orientation, unreadable)

    def image(self, path: Path, files: Sequence[Path]) -> Image.Image:
        """One of `files`; the first that cannot be read has all looked at, so that the error lists every one."""
        try:
            return read_image(path, self.orientation)
        except DataError as error:
            raise DataError(_listed(self._failures(files) or [str(error)], len(files))) from error

    def readable(self, files: Sequence[Path]) -> list[Path]:
        """The files that stay: all, or, with `skip`, those that can be read (each is read to find out)."""
        if self.unreadable == "refuse":
            return list(files)
        return [path for path in files if self._failure(path) is None]

    def name(self, split: str, skipped: int) -> str:
        """A split's name in tables, with the number of files that were skipped."""
        return f"{split}-{skipped}unreadable" if skipped else split

    def _failures(self, files: Sequence[Path]) -> list[str]:
        return [why for path in files if (why := self._failure(path)) is not None]

    def _failure(self, path: Path) -> str | None:
        try:
            read_image(path, self.orientation)
        except DataError as error:
            return str(error)
        return None


def _listed(failures: Sequence[str], count: int) -> str:
    more = [f"and {len(failures) - SHOWN} more"] if len(failures) > SHOWN else []
    each = "; ".join([*failures[:SHOWN], *more])
    return f"{len(failures)} of {count} images cannot be read (a folder's unreadable=skip leaves them out): {each}"
