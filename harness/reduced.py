"""Passes without gradients in a smaller floating-point type: those of methods that declare them.

`FORWARD_ONLY = True` on a method's class says: it makes many passes of changed images and averages a class' score of
each, so that `forward_precision` may apply to them. Its results then have other keys, and say so in the column
`precision`. Metrics do not: they subtract the clean image's score, which is in full precision, or ask which class is
first, and in eight bits logits tie.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

SAME = "same"  # forward_precision that changes nothing


def smaller(asked: str, made: object) -> str:
    """The type that is asked for where a method makes such passes; else empty."""
    return asked if asked != SAME and getattr(made, "FORWARD_ONLY", False) else ""


class Passes:
    """Runs a module, and inside `of` without gradients by autocast; outputs come back in the inputs' type."""

    def __init__(self) -> None:
        self.type = ""

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Inside, the type of passes without gradients; empty: that of the network."""
        before, self.type = self.type, name
        try:
            yield
        finally:
            self.type = before

    def __call__(self, module: nn.Module, inputs: Tensor) -> Any:
        """What the module returns."""
        if not self.type or torch.is_grad_enabled():
            return module(inputs)
        with torch.autocast(inputs.device.type, getattr(torch, self.type)):
            outputs = module(inputs)
        return outputs.to(inputs.dtype) if isinstance(outputs, Tensor) else outputs
