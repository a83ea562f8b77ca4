"""What methods in other libraries' code need: a twin of the network that they may hook and change."""

import copy
import difflib
import importlib
import inspect
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from assay.harness.network import Network
from assay.harness.seeds import SampleRng
from torch import Tensor, nn


class Twin(nn.Module):
    """A network's module for foreign code: the same weights in memory, but modules and parameters of its own.

    Hooks, attributes and new values of `.data` stay with the twin; what runs through it is counted as the network's
    passes. Two things that hooks do not bear are undone: modules do not write in place, and a module that one pass
    calls several times becomes one module a call.

    Args:
        network: whose module.
        example: normalised input [1,3,H,W], to see once which modules are called several times.
    """

    def __init__(self, network: Network, example: Tensor) -> None:
        super().__init__()
        self.network = network
        self.module = _alias(network.module)
        for module in self.module.modules():
            if getattr(module, "inplace", False):
                module.inplace = False  # type: ignore[assignment]
        if network.module not in _REUSED:
            _REUSED[network.module] = _reused(self.module, example)
        for name, calls in _REUSED[network.module].items():
            _replace(self.module, self.module.get_submodule(name), calls)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits [B,C] of normalised inputs [B,3,H,W]."""
        self.network.passes.forward += len(inputs)
        logits: Tensor = self.module(inputs.clone())  # a first layer that writes in place must not reach the inputs
        if logits.requires_grad:
            logits.register_hook(self._count_backward)
        return logits

    def _count_backward(self, gradient: Tensor) -> None:
        self.network.passes.backward += len(gradient)

    def layer(self, name: str) -> nn.Module:
        """A module by its path in the network; of one that is called several times, the last call's."""
        known = dict(self.network.module.named_modules(remove_duplicate=False))
        if not name or name not in known:
            raise ValueError(near(name, known, f"module of {type(self.network.module).__name__}", few=True))
        module = self.module.get_submodule(name)
        return module.calls[-1] if isinstance(module, _InTurn) else module


class _InTurn(nn.Module):
    """One module for each of the calls that a pass makes; they share their weights."""

    def __init__(self, module: nn.Module, calls: int) -> None:
        super().__init__()
        self.calls = nn.ModuleList([_alias(module) for _ in range(calls)])
        self.turn = 0

    def forward(self, *args: object, **kwargs: object) -> object:
        made = self.calls[self.turn](*args, **kwargs)
        self.turn = (self.turn + 1) % len(self.calls)
        return made


_REUSED: WeakKeyDictionary[nn.Module, dict[str, int]] = WeakKeyDictionary()  # module -> leaf called again -> calls


def _alias(module: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers are new tensors on the same memory."""
    shared: dict[int, object] = {id(p): nn.Parameter(p.detach(), False) for p in module.parameters()}
    return copy.deepcopy(module, shared | {id(b): b.detach() for b in module.buffers()})


def _reused(module: nn.Module, example: Tensor) -> dict[str, int]:
    """Modules without children that one pass calls more than once, and how often; `module` may be hooked."""
    leaves = {name: leaf for name, leaf in module.named_modules() if not list(leaf.children())}
    calls = dict.fromkeys(leaves, 0)

    def counter(name: str) -> object:
        def count(*_: object) -> None:
            calls[name] += 1

        return count

    handles = [leaf.register_forward_pre_hook(counter(name)) for name, leaf in leaves.items()]
    with torch.no_grad():
        module(example.clone())
    for handle in handles:
        handle.remove()
    return {name: count for name, count in calls.items() if count > 1}


def _replace(module: nn.Module, leaf: nn.Module, calls: int) -> None:
    """Put a module for each call wherever `leaf` stands."""
    substitute = _InTurn(leaf, calls)
    for parent in list(module.modules()):
        for name, child in list(parent._modules.items()):  # named_children() names a module once
            if child is leaf:
                setattr(parent, name, substitute)


def imported(library: str, module: str) -> ModuleType:
    """A module of an optional library; ImportError says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{library} cannot be imported ({error}): pip install '.[adapters]' (or pip install {library})"
        ) from error


def near(word: str, choices: Collection[str], what: str, few: bool = False) -> str:
    """`'word' is no <what>. Did you mean ...? Valid: ...`; few: of module paths, list the top level alone."""
    close = difflib.get_close_matches(word, choices, n=3, cutoff=0.4)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    listed = [name for name in choices if name and "." not in name] if few else sorted(choices)
    return f"{word!r} is no {what}.{hint} {'Top-level' if few else 'Valid'}: {', '.join(listed)}"


def parameters(function: Any) -> dict[str, inspect.Parameter]:
    """Of a function, or of a class' constructor, by name."""
    return dict(inspect.signature(function).parameters)


def check_names(
    what: str, given: Mapping[str, Any], taken: Mapping[str, inspect.Parameter], ours: tuple[str, ...]
) -> None:
    """Raise ValueError unless every given name is a parameter, and every one without a default is given; but `ours`."""
    valid = {name: parameter for name, parameter in taken.items() if name not in ours}
    for name in given:
        if name not in valid:
            raise ValueError(near(name, valid, f"name of {what}"))
    if missing := [n for n, p in valid.items() if p.default is p.empty and p.kind != p.VAR_KEYWORD and n not in given]:
        raise ValueError(f"{what} need {', '.join(missing)}")


def pair_seeds(rng: SampleRng) -> list[int]:
    """A 48-bit seed for each pair, from (seed, sample) alone."""
    halves = (rng.uniform((2,), per="pair").double() * 2**24).long()  # float32 in [0,1) has 24 bits
    return (halves[:, 0] * 2**24 + halves[:, 1]).tolist()


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's and NumPy's global generators seeded inside, as they were afterwards."""
    state = np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            np.random.set_state(state)
