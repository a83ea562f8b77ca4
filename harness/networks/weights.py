"""Weights from files: found, checked, read without running code, and fitted to a module."""

import hashlib
import pickle
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..config import ROOT

Module = TypeVar("Module", bound=nn.Module)


CONTAINERS = ("state_dict", "model_state_dict", "model", "net")  # under which training scripts keep a state dict
PREFIXES = ("module.", "_orig_mod.", "model.")  # of DataParallel, torch.compile, Lightning
Convert = Callable[[dict[str, Tensor]], dict[str, Tensor]]  # from a checkpoint's names and layout to the module's


def _is_file_name(weights: str) -> bool:
    return Path(weights).suffix in (".safetensors", ".pth", ".pt", ".tar")


def find_weights(weights: str) -> Path:
    """The file as given, or below the checkout; FileNotFoundError says where it was looked for."""
    candidates = [Path(weights).expanduser(), ROOT / weights]
    for path in candidates:
        if path.is_file():
            return path
    if folders := [path for path in candidates if path.is_dir()]:
        raise IsADirectoryError(f"weights {weights!r} is a folder ({folders[0].absolute()}): name a file in it")
    tried = " and ".join(str(path) for path in dict.fromkeys(map(Path.absolute, candidates)))
    raise FileNotFoundError(
        f"weights file {weights!r} not found (looked at {tried}). Name a .safetensors or .pth file: "
        "model.weights=/path/to/file.safetensors"
    )


def _find_published(weights: str, url: str) -> Path:
    try:
        return find_weights(weights)
    except FileNotFoundError as error:
        name = Path(weights).name
        raise FileNotFoundError(
            f"{error}. The published file: curl --create-dirs -o {weights} {url}{name} "
            "(its sha256 starts with the digits at the end of its name, and is checked)"
        ) from error


def load_weights(module: nn.Module, weights: str, sha256: str | None = None, convert: Convert = dict) -> list[str]:
    """Load a state dict strictly (num_batches_tracked may be absent), after checking its digest if one is given.

    sha256: all 64 hex digits, or the first eight or more, as published file names carry them.
    convert: from the file's names and layout to the module's.

    Returns:
        What was decided without being asked: the entry that was read, the prefix that was taken off.
    """
    read = _read_weights(weights, sha256)
    return [*read.notes, *_load(module, read, convert)]


def build_for(
    build: Callable[[int | None], Module],
    weights: str,
    sha256: str | None = None,
    convert: Convert = dict,
    classes: int | None = None,
) -> tuple[Module, list[str]]:
    """A module with the weights of a file, which has as many outputs as the file, unless `classes` says how many.

    build: makes the module with so many outputs (None: its own number). The rest as in `load_weights`.
    """
    read, module = _read_weights(weights, sha256), build(classes)
    state = convert(_renamed(read.state, module)[0])
    found = _class_count(state, module) if classes is None else None
    if found is None:
        return module, [*read.notes, *_load(module, read, convert)]
    module = build(found)
    said = f"{found} classes, as the last layer in {read.path.name} has"
    return module, [*read.notes, *_load(module, read, convert), said]


def _class_count(state: dict[str, Tensor], module: nn.Module) -> int | None:
    """Outputs of the file's last layer, where that and nothing else makes its shapes another module's."""
    own = module.state_dict()
    shared = [(own[name].shape, value.shape) for name, value in state.items() if name in own]
    pairs = [(mine, other) for mine, other in shared if mine != other]
    if not pairs or any(mine[1:] != other[1:] or not len(mine) for mine, other in pairs):
        return None
    ours, theirs = {mine[0] for mine, _ in pairs}, {other[0] for _, other in pairs}
    return int(theirs.pop()) if len(ours) == len(theirs) == 1 else None


class _Checkpoint(NamedTuple):
    """What a file holds, and what had to be decided to find it."""

    path: Path
    state: dict[str, Tensor]
    notes: list[str]


def _read_weights(weights: str, sha256: str | None) -> _Checkpoint:
    path = find_weights(weights)
    if sha256 is not None and not _same_digest(found := file_sha256(path), sha256):
        raise ValueError(f"sha256 of {path} is {found}, expected {sha256}: another file, or a damaged one")
    return _read_state(path)


def _load(module: nn.Module, read: _Checkpoint, convert: Convert) -> list[str]:
    """Load what was read; returns what was done to its names."""
    path, (renamed, notes) = read.path, _renamed(read.state, module)
    state = {name: value.float() if value.is_floating_point() else value for name, value in convert(renamed).items()}
    if others := _of_other_shapes(state, module):
        hint = "Is it of model.classes outputs, and model.architecture the one that it was saved from?"
        raise ValueError(
            f"{path} does not fit {type(module).__name__}, of other shapes: {'; '.join(others[:3])}. {hint}"
        )
    missing, unexpected = module.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ValueError(
            f"{path} does not fit {type(module).__name__}: missing {missing[:5] or 'nothing'}, "
            f"unexpected {unexpected[:5] or 'nothing'}. Is model.architecture the one the file was saved from?"
            f"{_common_prefix(unexpected)}"
        )
    return [f"{note} in {path.name}" for note in notes]


def _of_other_shapes(state: dict[str, Tensor], module: nn.Module) -> list[str]:
    own = {name: list(value.shape) for name, value in module.state_dict().items()}
    found = {name: list(value.shape) for name, value in state.items()}
    return [
        f"{name} is {found[name]}, and should be {own[name]}"
        for name in own
        if name in found and found[name] != own[name]
    ]


def _common_prefix(names: Sequence[str]) -> str:
    """A hint, where all names that do not fit begin alike."""
    first = {name.partition(".")[0] for name in names}
    return (
        f" All those names begin with {first.pop() + '.'!r}: a wrapper's? Then rename them" if len(first) == 1 else ""
    )


def _renamed(state: dict[str, Tensor], module: nn.Module) -> tuple[dict[str, Tensor], list[str]]:
    """Names without what wrappers put before each of them, where the module has no name like these; what that was."""
    own, notes = module.state_dict().keys(), []
    while not own & state.keys() and (prefix := next((p for p in PREFIXES if all(n.startswith(p) for n in state)), "")):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
        notes.append(f"the prefix {prefix!r} is taken off all names")
    return state, notes


def _read_state(path: Path) -> _Checkpoint:
    try:
        if path.suffix == ".safetensors":
            loaded: Any = load_file(path)
        else:
            with warnings.catch_warnings():  # about pickles of another kind, which are refused below
                warnings.simplefilter("ignore")
                loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, LookupError) as error:
        raise ValueError(f"{path} {_unreadable(error, path)}") from error
    if _is_state(loaded):
        return _Checkpoint(path, dict(loaded), [])
    entries = [key for key in CONTAINERS if isinstance(loaded, dict) and _is_state(loaded.get(key))]
    if len(entries) != 1:
        found = f"; it has several: {', '.join(entries)}" if entries else "; it is empty" if loaded == {} else ""
        raise ValueError(
            f"{path} holds no state dict (names -> tensors, alone or under a key {', '.join(CONTAINERS)}){found}"
        )
    return _Checkpoint(path, dict(loaded[entries[0]]), [f"read from the entry {entries[0]!r} of {path.name}"])


def _unreadable(error: Exception, path: Path) -> str:
    """Why, in our words: torch's own would have the file's code run."""
    if path.stat().st_size == 0:
        return "is empty: copy or download it again"
    if named := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return (
            f"is a pickle that names code ({named[1]}), which is not run: save a state dict, "
            "torch.save(model.state_dict(), FILE)"
        )
    if isinstance(error, PermissionError):
        return f"cannot be read ({error.strerror})"
    if isinstance(error, SafetensorError):
        return f"is no safetensors file, or a damaged one ({error}): copy or download it again"
    return "is no torch file, or a damaged one: copy or download it again"


def _is_state(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(each, Tensor) for each in value.values())


def _same_digest(found: str, expected: str) -> bool:
    return len(expected) >= 8 and found.startswith(expected)


def file_sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
