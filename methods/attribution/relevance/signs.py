"""Whether layers read negative values, of which a device is asked once a pass and not once a layer."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary


def has_negative(x: Tensor) -> bool:
    """Whether any value is negative (or no number); of what lies on a device the host waits for the answer."""
    return not bool(x.min() >= 0)


class Signs:
    """`has_negative` of what the layers of a recorded pass read.

    On the CPU a question costs no more than the values that it looks at, so each is looked at when it is asked for. A
    device is asked for all of them when the first answer is needed. No value is kept alive.
    """

    def __init__(self) -> None:
        self._known: Any = WeakTensorKeyDictionary()  # input of a layer -> the answer; None: not asked yet

    def add(self, x: Tensor) -> None:
        """A layer reads it."""
        self._known[x] = None

    def has_negative(self, x: Tensor) -> bool:
        """Of what a layer reads, or of any other value."""
        if x.is_cpu or x not in self._known:
            return has_negative(x)
        if self._known[x] is None:
            self._ask()
        answer: bool = self._known[x]
        return answer

    def _ask(self) -> None:
        inputs = [x for x, answer in self._known.items() if answer is None]
        answers = torch.stack([x.min() >= 0 for x in inputs]).logical_not().tolist()
        self._known.update(zip(inputs, answers, strict=True))
