"""NaN and infinity, found where they come from: a tensor of the weights, an image."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..config import ConfigError

SHOWN = 5  # names in an error


def check_weights(module: nn.Module, name: str) -> None:
    """Raise ConfigError, naming the tensors, unless all that the network `name` has learned are numbers.

    A buffer may hold -inf: masks of attention do.
    """
    if bad := [*_bad(dict(module.named_parameters()), False), *_bad(dict(module.named_buffers()), True)]:
        raise ConfigError(
            f"model {name}: weights that are no numbers (NaN or infinite): {_some(bad, '; ')}. The file is damaged, or "
            "training diverged: fetch it again, or take an earlier checkpoint"
        )


def _bad(tensors: Mapping[str, Tensor], may_mask: bool) -> Iterator[str]:
    for name, value in tensors.items():
        if not value.is_floating_point() or _is_surely_finite(value):
            continue
        if not bool((fine := _numbers(value, may_mask)).all()):
            yield f"{name}, {int((~fine).sum())} of {value.numel()}"


def _is_surely_finite(value: Tensor) -> bool:
    """Of a sum that is finite, every summand is: a sixth of the time of looking at each."""
    return bool(value.sum().isfinite())


def _numbers(value: Tensor, may_mask: bool) -> Tensor:
    return value < torch.inf if may_mask else value.isfinite()


def check_rows(what: str, values: Tensor, names: Sequence[str]) -> None:
    """Raise ValueError, `what` with the names of the first rows, unless all values [N,...] are finite.

    One look at the device, and no more where all is well.
    """
    if _is_surely_finite(values) or bool(values.isfinite().all()):
        return
    bad = (~values.isfinite()).reshape(len(values), -1).any(1).tolist()
    found = [name for name, is_bad in zip(names, bad, strict=True) if is_bad]
    raise ValueError(f"{what} not finite for {_some(found, ', ')}")


def _some(names: Sequence[str], between: str) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{between.join(names[:SHOWN])}{more}"


def check_state(detector: str, state: Mapping[str, Tensor]) -> None:
    """Raise ValueError, naming the tensors, if a fit left NaN."""
    if bad := [name for name, value in state.items() if bool(value.isnan().any())]:
        raise ValueError(
            f"{detector}: the fit left NaN in {', '.join(bad)}: too few or constant training images, or values beyond "
            "the floating-point type"
        )
