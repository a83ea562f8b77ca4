"""Tar files as WebDataset writes them, read anywhere: files side by side that share a key are one sample.

The key of `train/0001.seg.png` is `train/0001`, its ending `seg.png`: a name is cut at the first dot of its last part.
"""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .decoding import DataError, one_line

BLOCK = 512  # bytes; a tar is made of such blocks, and two of zeros end it
RECORD = 20 * BLOCK  # to a multiple of which tar, and Python, fill up a file with zeros
HINT = "write it with the webdataset package, or with tar: KEY.jpg and KEY.cls side by side"
AS_FILES = "pack it with tar --dereference --hard-dereference, and without --sparse"


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
        DataError: it is no tar, is compressed, damaged, joined or cut short, or has a key or a file of it twice.
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
            yield from _shown(tar, opened)
            end = opened.offset
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(
            f"{tar} is no tar that can be read ({one_line(error)}): fetch it again; a compressed one unpack, "
            "as a sample is read from its place"
        ) from error
    _check_end(tar, end)


def _shown(tar: Path, opened: tarfile.TarFile) -> Iterator[tuple[str, Member]]:
    """Files, and hard links to those before them, which tar makes of a file's second name."""
    seen = dict[str, Member]()
    for each in opened:
        if not each.isdir():
            name = each.name.removeprefix("./")
            seen[name] = _member(tar, each, seen)
            if not name.rpartition("/")[2].startswith("."):
                yield name, seen[name]


def _member(tar: Path, each: tarfile.TarInfo, seen: dict[str, Member]) -> Member:
    """Where an entry's bytes lie; DataError of one that has none here."""
    if each.islnk() and (target := seen.get(each.linkname.removeprefix("./"))):
        return target
    if each.isreg() and not each.issparse():
        return Member(each.offset_data, each.size)
    kind = "a link" if each.islnk() or each.issym() else "a sparse file" if each.issparse() else "no file"
    to = f" to {each.linkname}" if each.linkname else ""
    raise DataError(f"{tar}: {each.name} is {kind}{to}, whose bytes are not in the tar as they are: {AS_FILES}")


def _check_end(tar: Path, end: int) -> None:
    """A header that is damaged ends a tar for who reads it, so what comes behind the last file must be an end."""
    size, shortest = tar.stat().st_size, end + 2 * BLOCK
    if (other := _first_other(tar, end)) is not None:
        raise DataError(
            f"{tar}: after its last file, which ends at byte {end}, there is no end but other bytes (at {other}): a "
            "header is damaged: fetch it again; or tars were joined: give each its own file"
        )
    if size < shortest:
        raise DataError(f"{tar} is cut short: two blocks of zeros at byte {end} would end it: fetch it again")
    if size not in (shortest, -(-shortest // RECORD) * RECORD):
        raise DataError(
            f"{tar}: {size - end} zeros come after its last file, which ends at byte {end}, and a tar's end is "
            f"{2 * BLOCK}, or filled up to a multiple of {RECORD}: a download that was broken off leaves such a file: "
            "fetch it again, or unpack and pack it anew"
        )


def _first_other(tar: Path, start: int) -> int | None:
    """Where, from `start` on, the first block with a byte that is not zero begins."""
    with tar.open("rb") as file:
        file.seek(start)
        while block := file.read(BLOCK):
            if any(block):
                return start
            start += len(block)
    return None
