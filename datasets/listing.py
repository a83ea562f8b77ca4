"""Which files a data set has: found, listed in text files, checked, and digested."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from .decoding import DataError, image_endings

READING = 2  # version of how files are read, in every fingerprint: raise it when the same files give other samples
UNREAD = frozenset(
    (".heic", ".heif", ".jxl", ".dcm", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".exr", ".svg"),
)  # pictures that people have and Pillow does not read
UTF16 = (b"\xff\xfe", b"\xfe\xff")  # byte-order marks


def image_files(folder: Path) -> list[Path]:
    """Images below a folder, sorted by path, through links too; nothing hidden (`._1.png`, `.cache/`, `__MACOSX/`).

    Raises:
        DataError: a link that leads back to a folder it lies in, or a name that is no UTF-8.
    """
    endings = image_endings()
    found = sorted(path for path in _files(folder) if path.suffix.lower() in endings)
    for path in found:
        _check_name(path)
    return found


def _check_name(path: Path) -> None:
    """Raise DataError for a name that could be written to no table."""
    if not _is_text(str(path)):
        raise DataError(f"{str(path)!r}: its name holds bytes that are no UTF-8: rename it")


def _is_text(name: str) -> bool:
    return name.encode(errors="replace").decode() == name


def unread_pictures(folder: Path) -> list[str]:
    """What to say of pictures below a folder that Pillow does not read (phones', scanners'): endings and numbers."""
    found = Counter(path.suffix.lower() for path in _files(folder))
    endings = sorted(found.keys() & UNREAD - image_endings())
    each = ", ".join(f"{found[ending]} {ending}" for ending in endings)
    return [f"{each} below {folder} are not read, as Pillow reads no such files: convert them"] if each else []


def class_folders(root: Path) -> list[Path]:
    """Folders below the root with files, or with nothing at all, sorted; nothing hidden."""
    found = [Path(where) for where, folders, files in _walk(root) if files or not folders]
    return sorted(path for path in found if path != root)


def _files(folder: Path) -> Iterable[Path]:
    return (Path(where) / name for where, _, files in _walk(folder) for name in files)


def _walk(folder: Path) -> Iterable[tuple[str, list[str], list[str]]]:
    for where, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if _is_shown(name)]  # the walk goes on in these
        for name in folders:
            _check_no_loop(Path(where) / name)
        yield where, folders, [name for name in files if _is_shown(name)]


def _is_shown(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _check_no_loop(folder: Path) -> None:
    """Raise DataError for a link to a folder that it lies in: its images would be found again and again."""
    if not folder.is_symlink():
        return
    target = folder.resolve()
    if any(above.resolve() == target for above in folder.absolute().parents):
        raise DataError(f"{folder} is a link back to {target}, which it lies in: remove the link")


def require_unique(names: Iterable[str], where: object) -> None:
    """Raise DataError where two images have one name, under which tables and files of maps know them."""
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{where}: two images are called {', '.join(repeated[:5])}: give each its own name")


def require_files(files: Sequence[Path], hint: str) -> None:
    """Raise unless all files exist; `hint` says where to get them."""
    if missing := [path for path in files if not path.is_file()]:
        more = f" and {len(missing) - 1} more of {len(files)}" if len(missing) > 1 else ""
        raise DataError(f"no file {missing[0].absolute()}{more}. {hint}")


def read_text(path: Path) -> str:
    """A text file in UTF-8 or, where its byte-order mark says so, UTF-16; the mark is dropped.

    Raises:
        DataError: it is in another encoding.
    """
    encoded = path.read_bytes()
    try:
        text = encoded.decode("utf-16" if encoded.startswith(UTF16) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text ({error}): save it as UTF-8") from error
    if "\0" in text:
        raise DataError(f"{path} is no text, it has zero bytes: save it as UTF-8")
    return text


def read_names(path: Path) -> list[str]:
    """The names in a text file, one a line, with the spaces inside them; blank lines count for nothing."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def read_classes(path: Path) -> list[str]:
    """Class names by index, as `read_names`.

    Raises:
        DataError: there is no such file, or it has a name twice.
    """
    if not path.is_file():
        raise DataError(f"no list of classes at {path.absolute()}: write one name a line, in the order of the outputs")
    names = read_names(path)
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{path} lists {', '.join(repeated)} more than once: each line is another class")
    return names


def files_fingerprint(root: Path, files: Iterable[Path], contents: Iterable[Path] = ()) -> str:
    """Digest of relative paths, sizes and `READING`: changes when a file is added, removed or resized.

    contents: files that enter with all their bytes, for annotations (an edit may keep their size).
    """
    return hashlib.sha256(f"{listing(root, files, contents)} {READING}".encode()).hexdigest()[:20]


def listing(root: Path, files: Iterable[Path], contents: Iterable[Path] = ()) -> str:
    """The same digest of the files alone: what `expected_listing` pins."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(root)} {_size(path)}\n".encode(errors="surrogateescape"))
    for path in contents:
        digest.update(f"{path.relative_to(root)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:20]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(f"{path} cannot be opened ({error.strerror}): a link that leads nowhere? Remove it") from error


def check_files(
    root: Path, files: Sequence[Path], count: int | None, expected: str | None, published: str = "this set"
) -> None:
    """Raise unless there are `count` files whose `listing` is the expected one; None checks nothing.

    published: what the error calls the set that was expected.
    """
    if count is not None and len(files) != count:
        raise DataError(
            f"{len(files)} images at {root.absolute()}, {published} has {count}: unpack the archive again into an "
            "empty folder; or expected_count=null for a part of it, whose figures compare with no one else's"
        )
    if expected is not None and (found := listing(root, files)) != expected:
        raise DataError(
            f"names and sizes of the {len(files)} images at {root.absolute()} give {found}, not {expected}: they are "
            f"not {published}, or lie in other folders below the root; or expected_listing=null"
        )


def class_indices(names: Iterable[str], classes: Sequence[str], option: str) -> frozenset[int]:
    """Indices of classes by name; `option` names the setting in the error."""
    if unknown := sorted(set(names) - set(classes)):
        raise DataError(f"{option}: {', '.join(unknown)} unknown; classes are {', '.join(classes)}")
    return frozenset(classes.index(name) for name in names)
