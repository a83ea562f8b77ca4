"""Tar files as WebDataset writes them, read anywhere: files side by side that share a key are one sample.

The key of `train/0001.seg.png` is `train/0001`, its ending `seg.png`: a name is cut at the first dot of its last part.
"""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .decoding import DataError, one_line

BLOCK = 512  # bytes; a tar is made of such blocks, and one of zeros ends it
HINT = "write it with the webdataset package, or with tar: KEY.jpg and KEY.cls side by side"


class Member(NamedTuple):
    """Where a file's bytes lie in its tar."""

    offset: int
    size: int


class Packed(NamedTuple):
    """One sample of a tar: its files by ending, in lower case."""

    tar: Path
    key: str
    members: dict[str, Member]

    def read(self, ending: str) -> bytes:
        """The bytes of one of its files. The tar is opened anew: loader processes share nothing."""
        member = self.members[ending]
        with self.tar.open("rb") as file:
            file.seek(member.offset)
            return file.read(member.size)

    def __str__(self) -> str:
        return f"{self.tar}: {self.key}"


def packed_samples(tar: Path) -> list[Packed]:
    """The samples of a tar in its order.

    Raises:
        DataError: it is no tar, is compressed or cut short, or has a key or a file of it twice.
    """
    samples: dict[str, Packed] = {}
    last = ""
    for name, member in _files(tar):
        key, ending = _split(name)
        if key != last and key in samples:
            raise DataError(f"{tar}: the key {key} comes twice, with other files between: give each sample its own key")
        members = samples.setdefault(key, Packed(tar, key, {})).members
        if ending in members:
            raise DataError(f"{tar}: {key}.{ending} is there twice: give each sample its own key")
        members[ending], last = member, key
    if not samples:
        raise DataError(f"{tar} holds no sample: {HINT}")
    return list(samples.values())


def _split(name: str) -> tuple[str, str]:
    folder, slash, last = name.rpartition("/")
    stem, _, ending = last.partition(".")
    return f"{folder}{slash}{stem}", ending.lower()


def _files(tar: Path) -> Iterator[tuple[str, Member]]:
    """Names and places of a tar's files; nothing hidden (`._1.jpg`)."""
    try:
        with tarfile.open(tar, "r:") as opened:
            end = 0
            for each in opened:
                end = each.offset_data + (-(-each.size // BLOCK) * BLOCK if each.isreg() else 0)
                if each.isreg() and not each.name.rpartition("/")[2].startswith("."):
                    yield each.name.removeprefix("./"), Member(each.offset_data, each.size)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(
            f"{tar} is no tar that can be read ({one_line(error)}): fetch it again; a compressed one unpack, "
            "as a sample is read from its place"
        ) from error
    if tar.stat().st_size < end + BLOCK:
        raise DataError(f"{tar} is cut short, it has no end: fetch it again")
