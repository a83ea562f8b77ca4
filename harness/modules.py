"""What people give as a classifier, as a module that runs frozen in eval mode: wrappers are taken off."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn


def frozen(given: Any) -> nn.Module:
    """The module itself, in eval mode, its parameters asking for no gradients.

    What torch.compile, DataParallel or DistributedDataParallel has wrapped is taken out: the same function, whose
    layers have their own names and can be seen.

    Raises:
        TypeError: no module.
        ValueError: parameters without values; a part that stays in training mode.
    """
    module = _unwrapped(given)
    for name, parameter in module.named_parameters():
        if parameter.is_meta or nn.parameter.is_lazy(parameter):
            raise ValueError(_without_values(module, name))
    with suppress(NotImplementedError):  # a program of torch.export has the one mode that it was made in
        module.eval()
        _check_modes(module)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module


def _unwrapped(given: Any) -> nn.Module:
    while isinstance(given, nn.Module):
        parallel = isinstance(given, (nn.DataParallel, nn.parallel.DistributedDataParallel))
        inner = given.module if parallel else getattr(given, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return given
        given = inner
    mend = "give its .module()" if hasattr(given, "graph_signature") else "put what it calls into one"
    raise TypeError(f"{type(given).__name__} is no torch.nn.Module: {mend}")


def _without_values(module: nn.Module, parameter: str) -> str:
    return (
        f"{type(module).__name__}: parameter {parameter!r} has no values yet: run a lazily built module once on an "
        "image (torch.zeros(1, 3, H, W)), and load the weights of one on the device meta, before it is explained"
    )


def _check_modes(module: nn.Module) -> None:
    """Raise ValueError where eval() has not reached a part."""
    training = [name or "itself" for name, each in module.named_modules() if getattr(each, "training", False)]
    if training:
        raise ValueError(
            f"{type(module).__name__}: {', '.join(training[:3])} stays in training mode after eval(): let its eval() "
            "and train() call those of nn.Module"
        )


def unseen_parts(module: nn.Module) -> str:
    """Which parts run where nobody sees their operations, and the mend, as the end of a message; empty for none."""
    found = [f"{name or 'the whole network'} ({how})" for name, how in _unseen(module)]
    return f"; here {', '.join(found)}: give the modules that they were made of" if found else ""


def _unseen(module: nn.Module) -> Iterator[tuple[str, str]]:
    """(path, by what) of each part that torch.jit or torch.compile has made, the outermost alone."""
    inside = "\n"
    for name, each in module.named_modules():
        if name.startswith(inside):
            continue
        compiled = hasattr(each, "_orig_mod") or getattr(each, "_compiled_call_impl", None) is not None
        if compiled or isinstance(each, torch.jit.ScriptModule):
            yield name, "torch.compile" if compiled else "torch.jit"
            inside = f"{name}." if name else ""


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """Digest of a state dict's names, types, shapes and bytes: the same whatever file it came from."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        if not name.endswith("num_batches_tracked"):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
