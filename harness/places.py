"""Where files lie: a folder of this machine, or a place of an object store that fsspec knows (`s3://bucket/prefix`).

A folder is a plain `pathlib.Path`. A place of an object store is a `upath.UPath`, which answers what a Path answers; it
has no folders of its own, no locks and no renaming, and an object is there whole or not at all. What would cost it a
request a file is asked for here in one.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path, PurePosixPath
from stat import S_ISREG
from typing import Any, cast

HERE = ("file", "local")  # what fsspec calls the file system of this machine
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}  # of ours, with the client of a protocol

WHOLE = ("s3", "s3a", "gs", "gcs", "az", "abfs", "memory")  # whose clients put an object whole or not at all


class NoPlace(ValueError):
    """What is given can be no place for results; the message says why."""


def place(text: str | Path) -> Path:
    """The place that a text names: `results`, `/data/results`, `s3://bucket/results`, `memory://results`.

    Credentials and endpoints are fsspec's own affair: it reads them from the environment.

    Raises:
        NoPlace: an object there could be half written, or nothing that is installed knows such places.
    """
    protocol, mark, rest = str(text).partition("://")
    if not mark:
        return Path(text)
    if protocol in HERE:
        return Path(rest)
    if protocol not in WHOLE:
        raise NoPlace(
            f"{protocol}:// is no store that is known to put a file whole or not at all: choose one of "
            f"{', '.join(f'{each}://' for each in WHOLE)}, or a folder (mounted, if it lies elsewhere)"
        )
    try:
        from upath import UPath

        made = UPath(str(text).rstrip("/"), use_listings_cache=False)  # other workers' files are to be seen
        _ = made.fs
    except ImportError as error:
        extra = f": pip install 'assay-harness[{EXTRAS[protocol]}]'" if protocol in EXTRAS else ""
        raise NoPlace(f"{protocol}:// needs a package that is not installed ({error}){extra}") from error
    except ValueError as error:
        raise NoPlace(str(error)) from error
    return cast(Path, made)


def reach(path: Path) -> None:
    """Ask an object store whether it answers; of a folder of this machine nothing.

    Raises:
        NoPlace: it does not: no credentials, no such endpoint.
    """
    if is_remote(path):
        try:
            names_in(path)
        except Exception as error:  # each store's client has errors of its own
            raise NoPlace(f"{path} cannot be reached ({type(error).__name__}: {error})") from error


def is_remote(path: Path) -> bool:
    """Whether a path is a place of an object store, where there are no locks."""
    return hasattr(path, "fs")


def _remote(path: Path) -> tuple[Any, str]:
    """The file system of a remote path, and what that calls it."""
    remote = cast(Any, path)
    return remote.fs, str(remote.path)


def read_bytes(path: Path) -> bytes:
    """A file's bytes, in one request."""
    if not is_remote(path):
        return path.read_bytes()
    system, name = _remote(path)
    return bytes(system.cat_file(name))


def read_together(paths: Sequence[Path]) -> dict[Path, bytes]:
    """The bytes of objects, asked for at once: those that could be read. None of files of this machine."""
    if len(paths) < 2 or not is_remote(paths[0]):
        return {}
    system, names = _remote(paths[0])[0], {_remote(path)[1]: path for path in paths}
    found = system.cat(list(names), on_error="omit")
    return {names[name]: bytes(data) for name, data in found.items() if name in names}


def readable(path: Path) -> Path | BytesIO:
    """What pandas reads: a path of this machine, or an object's bytes."""
    return BytesIO(read_bytes(path)) if is_remote(path) else path


def exists(path: Path) -> bool:
    """Whether there is such a file; an object store that does not answer has not said no, and raises."""
    if not is_remote(path):
        return path.exists()
    system, name = _remote(path)
    with suppress(FileNotFoundError):
        system.info(name)
        return True
    return False


def remove(path: Path) -> None:
    """Remove a file; harmless when it is not there."""
    if not is_remote(path):
        path.unlink(missing_ok=True)
    elif exists(path):
        system, name = _remote(path)
        with suppress(FileNotFoundError):  # another worker was quicker
            system.rm(name)


def put(path: Path, data: bytes) -> None:
    """Put an object, which is then whole."""
    system, name = _remote(path)
    system.pipe_file(name, data)


def rename(path: Path, target: Path) -> None:
    """Give a file another name; FileNotFoundError if it has gone."""
    if not is_remote(path):
        path.replace(target)
        return
    put(target, read_bytes(path))
    remove(path)


def folders_in(path: Path) -> set[str]:
    """Names of the folders in a folder."""
    if not is_remote(path):
        return {each.name for each in path.glob("*/")}
    system, name = _remote(path)
    with suppress(FileNotFoundError):
        found = system.ls(name, detail=True)
        return {_last(str(each["name"])) for each in found if each["type"] == "directory"}
    return set()


def names_in(path: Path) -> set[str]:
    """Names of what lies in a folder; none where there is no such folder."""
    if not is_remote(path):
        with suppress(FileNotFoundError, NotADirectoryError):
            return {each.name for each in path.iterdir()}
        return set()
    system, name = _remote(path)
    with suppress(FileNotFoundError):
        return {_last(str(each)) for each in system.ls(name, detail=False)}
    return set()


def sizes_in(path: Path) -> dict[str, int]:
    """Name of each file in a folder -> its bytes; of an object store by one listing."""
    if not is_remote(path):
        return dict(_sizes_here(path))
    system, name = _remote(path)
    with suppress(FileNotFoundError):
        found = system.ls(name, detail=True)
        return {_last(str(each["name"])): int(each["size"]) for each in found if each["type"] == "file"}
    return {}


def _sizes_here(path: Path) -> Iterator[tuple[str, int]]:
    for name in names_in(path):
        with suppress(FileNotFoundError):  # others write meanwhile
            about = (path / name).stat()
            if S_ISREG(about.st_mode):
                yield name, about.st_size


def matching(path: Path, pattern: str) -> list[Path]:
    """Files in a folder (`DONE-*.json`) or in its folders (`*/cell.json`), in the order of their names.

    fsspec's own glob leaves out what a request that fails would have listed.
    """
    if not is_remote(path):
        return sorted(path.glob(pattern))
    names = _listed(path) if "/" in pattern else names_in(path)
    alike = (name for name in names if name.count("/") == pattern.count("/"))
    return sorted(path / name for name in alike if PurePosixPath(name).match(pattern))


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2]


def files_below(path: Path) -> dict[str, set[str]]:
    """Folder below a path -> names of the files in it, by one listing; for object stores."""
    found = defaultdict[str, set[str]](set)
    for name in _listed(path):
        folder, _, file = name.rpartition("/")
        found[folder].add(file)
    return found


def _listed(path: Path) -> Iterator[str]:
    system, name = _remote(path)
    with suppress(FileNotFoundError):
        yield from (str(each).removeprefix(name).lstrip("/") for each in system.find(name))


def stamps(path: Path) -> dict[str, str]:
    """Name below a path of each of its files -> what tells two contents of one name apart; by one listing."""
    if not is_remote(path):
        return dict(_stamps_here(path))
    system, name = _remote(path)
    with suppress(FileNotFoundError):
        every = system.find(name, detail=True).items()
        return {str(each).removeprefix(name): _mark(about) for each, about in every}
    return {}


def _stamps_here(path: Path) -> Iterator[tuple[str, str]]:
    """Of a folder of this machine, in which others write meanwhile; not of what is hidden, as files half written."""
    for each in path.rglob("[!.]*"):
        with suppress(FileNotFoundError):
            about = each.stat()
            if S_ISREG(about.st_mode):
                yield str(each.relative_to(path)), f"{about.st_size} {about.st_mtime_ns}"


def _mark(about: dict[str, Any]) -> str:
    known = (about.get(name) for name in ("size", "ETag", "etag", "LastModified", "updated", "created"))
    return " ".join(str(each) for each in known if each is not None)
