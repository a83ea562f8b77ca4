"""Files that show when they are damaged: inside of each stands the checksum of all its other bytes.

It stands where a format has room for a text of ours: in the metadata of a parquet or safetensors file, at the end of a
JSON object. So a file is put whole by one rename, has one name, and is what others can read. CRC-32 finds every flip
of up to three bits in 11 kB and of two in 500 MB, every burst of 32, and of anything else all but one in 2^32.
"""

import errno
import json
import zlib
from pathlib import Path
from typing import Any

from ..places import is_remote, read_bytes
from .damage import REMEDY, Damaged, Incomplete
from .files import write_atomically

CHECKSUM = "checksum"  # the metadata's name, and the JSON entry's
_MARK, _BLANK = b"assay-crc32:", b"00000000"
SEAL = (_MARK + _BLANK).decode()  # what a writer puts where the checksum will stand

ILL = {errno.EIO, errno.EISDIR, errno.EBADMSG, getattr(errno, "EUCLEAN", errno.EIO)}  # what a disk says of lost bytes


def write_sealed(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all, with the checksum in the place of its last SEAL."""
    at = data.rindex(_MARK) + len(_MARK)
    write_atomically(path, b"".join([data[:at], _checksum(data, at), data[at + len(_BLANK) :]]))


def read_sealed(path: Path, remedy: str = REMEDY, data: bytes | None = None) -> bytes:
    """A file's bytes; `data`, if they have been read.

    Raises:
        Damaged: they are not those that were written.
        Incomplete: there is no such file any more.
        OSError: whoever keeps it does not give it now: an object store that is slow, a network that is down.
    """
    try:
        data = read_bytes(path) if data is None else data
    except PermissionError:
        raise
    except FileNotFoundError as error:
        raise Incomplete(f"{path} has gone meanwhile: run again") from error
    except OSError as error:
        if is_remote(path) or error.errno not in ILL:
            why = f"{type(error).__name__}: {error}".removesuffix(": ")  # a time-out says nothing
            raise OSError(f"{path} cannot be read now ({why})") from error
        raise Damaged([path], f"cannot be read ({error.strerror})", remedy) from error
    at = data.rfind(_MARK) + len(_MARK)
    if at < len(_MARK):
        raise Damaged([path], f"is damaged ({'no checksum in it' if data else 'it is empty'})", remedy)
    if data[at : at + len(_BLANK)] != _checksum(data, at):
        raise Damaged([path], "is damaged (its checksum is another one)", remedy)
    return data


def checksum_of(path: Path) -> str:
    """Of a file that holds none, eight hex digits; empty where there is none."""
    return f"{zlib.crc32(read_bytes(path)):08x}" if path.is_file() else ""


def _checksum(data: bytes, at: int) -> bytes:
    """Of all bytes but those of the checksum itself, which stands `at`; eight hex digits."""
    view = memoryview(data)
    return b"%08x" % zlib.crc32(view[at + len(_BLANK) :], zlib.crc32(_BLANK, zlib.crc32(view[:at])))


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Put a JSON object, readable by people."""
    plain = json.loads(json.dumps(value, sort_keys=True))
    write_sealed(path, (json.dumps(plain | {CHECKSUM: SEAL}, indent=1) + "\n").encode())


def read_json(path: Path, remedy: str = REMEDY) -> dict[str, Any]:
    """What `write_json` put.

    Raises:
        Damaged, Incomplete: as `read_sealed`.
    """
    value: dict[str, Any] = json.loads(read_sealed(path, remedy))
    del value[CHECKSUM]
    return value


def read_unsealed(path: Path) -> dict[str, Any] | None:
    """The JSON object that a version of Assay without checksums has written; None where it is not that."""
    try:
        data = read_bytes(path)
        value = json.loads(data)
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) and CHECKSUM not in value and _MARK not in data else None
