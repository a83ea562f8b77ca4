"""Hugging Face image parquet: columns `image` (bytes, path) and, where there are labels, `label`."""

import hashlib
import json
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from assay.harness.types import Sample
from PIL import Image

from .decoding import DataError, Reading, decode_image, failure_of, one_line, unreadable_among
from .images import Transform
from .listing import files_fingerprint

HINT = (
    "Put the parquet files of an image data set (columns image{bytes,path} and label) at <root>/<files>; then "
    "dataset.root=/path/to/root 'dataset.files=data/test-*.parquet'."
)
DAMAGED = (pa.ArrowException, OSError)
CACHED_GROUPS = 4  # row groups in memory at a time
MOST_CLASSES = 1_000_000
TAIL = 1 << 16  # bytes at the end of a file, which hold its footer: sizes and statistics of every column


class RowGroup(NamedTuple):
    """Part of a file that is read at once, and the row of the file at which it starts."""

    path: Path
    number: int
    first: int
    rows: int


class Place(NamedTuple):
    """Where a row is: its row group, the number of that, and its row there."""

    group: RowGroup
    number: int
    row: int

    @property
    def in_file(self) -> int:
        """Its row in the file."""
        return self.group.first + self.row


class Parquet:
    """Encoded images with a label, no boxes, upright as their EXIF says.

    One row group is read at a time and a few are kept.

    Args:
        root: folder of the files.
        files: name or glob pattern of the files, relative to root; several are taken in alphabetical order.
        split: name of the split in tables.
        image_column, label_column: names of the columns; without the label column samples have no targets,
            and a label of -1 says that this image has none.
        classes: names of the classes; null: those in the files' metadata, else the numbers up to the highest label.
        transform: settings of `datasets.images.Transform`.
        unreadable: rows without an image, or with one that cannot be read, as of `datasets.folder.Folder`.

    Raises:
        DataError: no file, no such column, an image that cannot be decoded, a label without a class.
    """

    def __init__(
        self,
        root: str,
        files: str,
        split: str = "test",
        image_column: str = "image",
        label_column: str = "label",
        classes: Sequence[str] | None = None,
        transform: Mapping[str, Any] | None = None,
        unreadable: str = "refuse",
    ) -> None:
        self.root, self.reading = Path(root).expanduser(), Reading.of("upright", unreadable)
        self.image_column, self.label_column = image_column, label_column
        self.transform = Transform.of(transform)
        self.files = sorted(self.root.glob(files))
        if not self.files:
            raise DataError(f"no file {files} at {self.root.absolute()}. {HINT}")
        opened = [_open(path) for path in self.files]
        for path, file in zip(self.files, opened, strict=True):
            self._check_columns(path, file.schema_arrow)
        labelled = [label_column in file.schema_arrow.names for file in opened]
        self.has_labels = all(labelled)
        if any(labelled) and not self.has_labels:
            raise DataError(
                f"{self.files[labelled.index(False)]} has no column {label_column!r}, and others of {files} have: "
                "name files of one kind"
            )
        named = classes or self._named_classes(opened)
        self.classes: Sequence[str] = list(named or self._numbered_classes(opened))
        self.groups = [g for path, file in zip(self.files, opened, strict=True) for g in _row_groups(path, file)]
        self.ends = list(accumulate(group.rows for group in self.groups))
        self.cache: OrderedDict[int, pa.Table] = OrderedDict()
        kept = self.reading.sift(range(self.ends[-1] if self.ends else 0), self._failure, self.root)
        self.rows, self.skipped, self.split = kept.items, kept.skipped, kept.split(split)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside {self.root}: choose 0 to {len(self) - 1}")
        place = self._place(self.rows[index])
        try:
            image = self._image(place)
        except DataError as error:
            raise unreadable_among(self.rows, self._failure, error) from error
        framed = self.transform(image)
        name = f"{place.group.path.relative_to(self.root).with_suffix('').as_posix()}/{place.in_file:06d}"
        label = self._table(place.number)[self.label_column][place.row].as_py() if self.has_labels else None
        return Sample(name, framed.image, self._targets(label, name), framed.size0)

    def _place(self, row: int) -> Place:
        """Of a row of all files together."""
        number = bisect_right(self.ends, row)
        group = self.groups[number]
        return Place(group, number, row - (self.ends[number] - group.rows))

    def _image(self, place: Place) -> Image.Image:
        """The decoded image of a row."""
        name = f"{place.group.path}: row {place.in_file}"
        encoded = _bytes_of(self._table(place.number)[self.image_column][place.row].as_py(), name)
        return decode_image(BytesIO(encoded), name, self.reading.orientation)

    def _failure(self, row: int) -> str | None:
        return failure_of(lambda: self._image(self._place(row)))

    def _targets(self, label: int | None, name: str) -> tuple[int, ...]:
        if label is None or label == -1:
            return ()
        if not 0 <= label < len(self.classes):
            raise DataError(f"{name}: label {label} is none of {len(self.classes)} classes: mend dataset.classes=[...]")
        return (label,)

    def _check_columns(self, path: Path, schema: pa.Schema) -> None:
        if self.image_column not in schema.names:
            raise DataError(f"{path} has no column {self.image_column!r} but {', '.join(schema.names)}. {HINT}")
        if not _may_hold_images(kind := schema.field(self.image_column).type):
            raise DataError(f"{path}: column {self.image_column!r} holds {kind}, no image bytes. {HINT}")
        if self.label_column in schema.names and not pa.types.is_integer(schema.field(self.label_column).type):
            raise DataError(f"{path}: column {self.label_column!r} holds no whole numbers: name another label_column")

    def _named_classes(self, opened: Sequence[pq.ParquetFile]) -> list[str]:
        """Names in the files' metadata, the same in all."""
        each = [
            _named_classes(path, f.schema_arrow, self.label_column) for path, f in zip(self.files, opened, strict=True)
        ]
        for path, names in zip(self.files, each, strict=True):
            if names != each[0]:
                raise DataError(
                    f"{path} names other classes ({', '.join(names[:5])}, ...) than {self.files[0]} "
                    f"({', '.join(each[0][:5])}, ...): a label would mean two things; give dataset.classes=[...]"
                )
        return each[0]

    def _numbered_classes(self, opened: Sequence[pq.ParquetFile]) -> list[str]:
        if not self.has_labels:
            return []
        each = [self._highest(path, file) for path, file in zip(self.files, opened, strict=True)]
        highest = max((label for label in each if label is not None), default=None)
        if highest is not None and highest > MOST_CLASSES:
            raise DataError(f"{self.root}: label {highest} is no index of a class: name another label_column")
        return [str(index) for index in range(0 if highest is None else highest + 1)]

    def _highest(self, path: Path, file: pq.ParquetFile) -> int | None:
        """The highest label of a file; None where it has none."""
        try:
            found: int | None = pc.max(file.read([self.label_column], use_threads=False)[self.label_column]).as_py()
        except DAMAGED as error:
            raise _damaged(path, error) from error
        return found

    def _table(self, number: int) -> pa.Table:
        """One row group, from memory if it was used lately. Files are opened anew: loader processes share nothing."""
        if number not in self.cache:
            group = self.groups[number]
            columns = [self.image_column, *([self.label_column] if self.has_labels else [])]
            try:
                self.cache[number] = pq.ParquetFile(group.path).read_row_group(group.number, columns, use_threads=False)
            except DAMAGED as error:
                raise _damaged(group.path, error) from error
        self.cache.move_to_end(number)
        while len(self.cache) > CACHED_GROUPS:
            self.cache.popitem(last=False)
        return self.cache[number]

    def fingerprint(self) -> str:
        """Names, sizes and footers of the files, and which rows are left where some were skipped."""
        digest = hashlib.sha256(files_fingerprint(self.root, self.files).encode())
        for path in self.files:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - TAIL))
                digest.update(file.read())
        if self.skipped:
            digest.update(f"{self.rows}".encode())
        return digest.hexdigest()[:20]


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except DAMAGED as error:
        raise DataError(f"{path} is no parquet file ({one_line(error)}): fetch it again. {HINT}") from error


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} cannot be read ({one_line(error)}): fetch the file again")


def _row_groups(path: Path, file: pq.ParquetFile) -> list[RowGroup]:
    rows = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    starts = [0, *accumulate(rows)]
    return [RowGroup(path, number, starts[number], count) for number, count in enumerate(rows)]


def _named_classes(path: Path, schema: pa.Schema, label_column: str) -> list[str]:
    """Names in Hugging Face's metadata (a ClassLabel feature) or in a plain `classes` entry, comma-separated."""
    metadata = schema.metadata or {}
    try:
        if features := json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {}):
            return list(features.get(label_column, {}).get("names", []))
    except (ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: its metadata are not Hugging Face's ({error}): give dataset.classes=[...]") from error
    return [name for name in metadata.get(b"classes", b"").decode().split(",") if name]


def _may_hold_images(kind: pa.DataType) -> bool:
    """Bytes, or a struct with `bytes`; a column of nothing (all null) is each row's to say."""
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_null(kind))


def _bytes_of(cell: Any, name: str) -> bytes:
    """The encoded image: in a struct with `bytes`, or bare."""
    encoded = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(encoded, bytes):
        raise DataError(f"{name} holds no image bytes: embed the images in the parquet file, paths are not followed")
    return encoded
