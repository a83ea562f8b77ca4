"""A second device without one: tensors that say they are elsewhere, and values that are computed here.

Code that mixes devices fails as it would on a GPU, and what makes the host wait for the device is written down; numbers
are the CPU's own, so a run on both must agree to the bit (but where code takes another way off the CPU).
"""

import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

ELSEWHERE = torch.device("lazy")  # a type without hardware whose backward pass torch runs on the host
ROOT = Path(__file__).resolve().parents[1]
aten = torch.ops.aten
MOVES = {aten._to_copy.default, aten.copy_.default}
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
WAITS = {aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default}


class Elsewhere(Tensor):
    """A tensor whose values lie here and whose device is not here."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> "Elsewhere":
        made = Tensor._make_wrapper_subclass(
            cls,
            here.size(),
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=ELSEWHERE,
        )
        made.here = here
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise RuntimeError(f"{func}: a tensor that is elsewhere has left its mode")

    def tolist(self) -> Any:  # torch's own refuses a class of tensors
        return self.detach().cpu().tolist()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Elsewhere({list(self.shape)}, {self.dtype})"


class PretendDevice(TorchDispatchMode):
    """Inside of it torch.device("lazy") has values.

    waits: where in this project the host waited for the device, and how often.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __enter__(self) -> Any:
        self._lifts = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) then moves where we see it
        return super().__enter__()

    def __exit__(self, *why: Any) -> None:
        super().__exit__(*why)
        torch._C._set_only_lift_cpu_tensors(self._lifts)

    def dispatch(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What torch calls for each operation."""
        kwargs = dict(kwargs or {})
        tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, Tensor)]
        elsewhere: list[Tensor] = [each for each in tensors if isinstance(each, Elsewhere)]
        asked = kwargs.get("device")
        goes = bool(elsewhere) if asked is None else torch.device(asked).type == ELSEWHERE.type
        if asked is not None and goes:
            kwargs["device"] = torch.device("cpu")
        self._check(func, args, tensors, elsewhere)
        self._note(func, args, kwargs, elsewhere, goes)
        if not elsewhere and not goes:
            return func(*args, **kwargs)
        if func is aten.copy_.default and not isinstance(args[0], Elsewhere):
            func(*tree_map(_here, args), **kwargs)
            return args[0]
        found = func(*tree_map(_here, args), **tree_map(_here, kwargs))
        made = tree_map(lambda each: Elsewhere(each) if goes and isinstance(each, Tensor) else each, found)
        return return_and_correct_aliasing(func, args, kwargs, made) if elsewhere and goes else made

    def _check(self, func: Any, args: Any, tensors: list[Tensor], elsewhere: list[Tensor]) -> None:
        """As CUDA: all on one device, but numbers, moves, and indices of what is elsewhere."""
        if not elsewhere or func in MOVES:
            return
        subjects = tensors if func not in INDEXED else [args[0], *args[2:3]]
        strangers = [each for each in subjects if isinstance(each, Tensor) and not isinstance(each, Elsewhere)]
        if bad := [list(each.shape) for each in strangers if each.ndim]:
            raise RuntimeError(f"{func}: tensors of two devices, here {bad} and elsewhere {elsewhere}")

    def _note(self, func: Any, args: Any, kwargs: Any, elsewhere: list[Tensor], goes: bool) -> None:
        moves = func in MOVES and not _may_go_on(func, args, kwargs) and _crosses(func, args, elsewhere, goes)
        places = [each for each in args[1] if each is not None] if func in INDEXED and elsewhere else []
        looks = any(each.dtype == torch.bool or (each.ndim and not isinstance(each, Elsewhere)) for each in places)
        if moves or looks or (elsewhere and func in WAITS):
            self.waits[f"{_place()} {func.name().removeprefix('aten::')}"] += 1


# Not in the class: there torch wraps it, and imports its compiler for that, three seconds.
PretendDevice.__torch_dispatch__ = PretendDevice.dispatch  # type: ignore[method-assign, assignment]


def _crosses(func: Any, args: Any, elsewhere: list[Tensor], goes: bool) -> bool:
    """Whether values are moved from one device to the other."""
    if func is aten.copy_.default:
        return isinstance(args[0], Elsewhere) is not isinstance(args[1], Elsewhere)
    return bool(elsewhere) is not goes


def _may_go_on(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether the host does not wait for a copy; what it sends is in pinned memory on a real device."""
    if func is aten.copy_.default:
        return bool(args[2:3] and args[2]) and isinstance(args[0], Elsewhere)
    return bool(kwargs.get("non_blocking")) and not isinstance(args[0], Elsewhere)


def _here(value: Any) -> Any:
    return value.here if isinstance(value, Elsewhere) else value


def _place() -> str:
    """The innermost line of this project."""
    return next(_ours(), "torch")


def _ours() -> Iterator[str]:
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if path.is_relative_to(ROOT) and "tests" not in path.parts and ".venv" not in path.parts:
            yield f"{path.relative_to(ROOT)}:{frame.lineno}"
