"""Weights from files: found, checked, read without running code, and fitted to a module."""

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..config import ROOT

Module = TypeVar("Module", bound=nn.Module)


Convert = Callable[[dict[str, Tensor]], dict[str, Tensor]]  # from a checkpoint's names and layout to the module's


def _is_file_name(weights: str) -> bool:
    return Path(weights).suffix in (".safetensors", ".pth", ".pt", ".tar")


def find_weights(weights: str) -> Path:
    """The file as given, or below the checkout; FileNotFoundError says where it was looked for."""
    candidates = [Path(weights).expanduser(), ROOT / weights]
    for path in candidates:
        if path.is_file():
            return path
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


def load_weights(module: nn.Module, weights: str, sha256: str | None = None, convert: Convert = dict) -> None:
    """Load a state dict strictly (num_batches_tracked may be absent), after checking its digest if one is given.

    sha256: all 64 hex digits, or the first eight or more, as published file names carry them.
    convert: from the file's names and layout to the module's.
    """
    path = find_weights(weights)
    if sha256 is not None and not _same_digest(found := file_sha256(path), sha256):
        raise ValueError(f"sha256 of {path} is {found}, expected {sha256}: another file, or a damaged one")
    read = convert(_read_state(path))
    state = {name: value.float() if value.is_floating_point() else value for name, value in read.items()}
    try:
        missing, unexpected = module.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit {type(module).__name__}, of other shapes: {error}") from error
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ValueError(
            f"{path} does not fit {type(module).__name__}: missing {missing[:5] or 'nothing'}, "
            f"unexpected {unexpected[:5] or 'nothing'}. Is model.architecture the one the file was saved from?"
        )


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} is no weights file that can be read without running code ({reason})") from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else {}
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dict (names -> tensors, alone or under the key state_dict)")
    return dict(state)


def _same_digest(found: str, expected: str) -> bool:
    return len(expected) >= 8 and found.startswith(expected)


def file_sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
