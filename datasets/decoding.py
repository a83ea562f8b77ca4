"""Files as pixels: which endings are read, what each kind of image means, and which way up it is."""

import struct
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

ORIENTATIONS = ("upright", "stored")
UNREADABLE = ("refuse", "skip")
WHITE = 65535  # of 16 bits
BROKEN = (  # all that Pillow's readers raise
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, RuntimeError, struct.error),
    Image.DecompressionBombError,
)
SHOWN = 20  # files that an error lists by name

T = TypeVar("T")


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
        why = "no format that Pillow reads" if isinstance(error, UnidentifiedImageError) else one_line(error)
        raise DataError(f"{name} cannot be read as an image ({why}): replace or remove the file") from error


def one_line(error: Exception) -> str:
    """What a library says, in one line: it stands in a row."""
    return " ".join(str(error).split()) or type(error).__name__


def _deep(image: Image.Image) -> Image.Image:
    """Grey of 16 bits, 32 bits or floats as mode F from 0 to 255."""
    values = np.asarray(image).astype(np.float32)
    white = 1 if image.mode == "F" else WHITE
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= white):
        raise ValueError(f"mode {image.mode} with values from {low:g} to {high:g}: white is {white}, rescale them")
    return Image.fromarray(values * np.float32(255 / white))


def to_array(image: Image.Image) -> NDArray[np.float32]:
    """What `decode_image` gives -> float32 [3,h,w] in [0,1]."""
    stored = np.asarray(image)
    values = np.empty((3, *stored.shape[:2]), np.float32)
    values[...] = stored.transpose(2, 0, 1) if stored.ndim == 3 else stored
    values /= np.float32(255)
    return values


class Reading(NamedTuple):
    """How the files of a data set are read, and what becomes of those that cannot be.

    orientation: `upright`, as a phone shows a photograph, or `stored`, as boxes are usually counted.
    unreadable: `refuse` the data set, naming all such files, or `skip` them: to find them every image is read once
        more, when the data set is made; their number stands in the split's name, and they in the data set's `skipped`.
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
            raise unreadable_among(files, self.failure, error) from error

    def sift(self, items: Sequence[T], failure: Callable[[T], str | None], where: object) -> "Sifted[T]":
        """What stays of a data set's items: all, or, with `skip`, those that can be read.

        failure: why an item cannot be read, if it cannot. where: what an error calls the data set.

        Raises:
            DataError: nothing is left.
        """
        if self.unreadable == "refuse":
            return Sifted(list(items), ())
        found = [(item, failure(item)) for item in items]
        kept = Sifted([item for item, why in found if why is None], tuple(why for _, why in found if why is not None))
        if items and not kept.items:
            raise DataError(f"none of {len(items)} images below {where} can be read: {kept.skipped[0]}")
        return kept

    def failure(self, path: Path) -> str | None:
        """Why a file cannot be read, if it cannot."""
        return failure_of(lambda: read_image(path, self.orientation))


class Sifted(NamedTuple, Generic[T]):
    """What stays of a data set, in its order, and why each of the others cannot be read."""

    items: list[T]
    skipped: tuple[str, ...]

    def split(self, name: str) -> str:
        """A split's name in tables, with the number of images that were skipped."""
        return f"{name}-{len(self.skipped)}unreadable" if self.skipped else name


def failure_of(read: Callable[[], object]) -> str | None:
    """Why an image cannot be read, if `read` says so by DataError."""
    try:
        read()
    except DataError as error:
        return str(error)
    return None


def unreadable_among(items: Sequence[T], failure: Callable[[T], str | None], first: DataError) -> DataError:
    """The error that lists all items that cannot be read; `first`, if now all can."""
    failures = [why for item in items if (why := failure(item)) is not None] or [str(first)]
    more = [f"and {len(failures) - SHOWN} more"] if len(failures) > SHOWN else []
    each = "; ".join([*failures[:SHOWN], *more])
    return DataError(f"{len(failures)} of {len(items)} images cannot be read (unreadable=skip leaves them out): {each}")
