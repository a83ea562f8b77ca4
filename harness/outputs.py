"""What a classifier's module returns, read as logits [B,C]: one of several outputs, one logit as two classes."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

Output = int | str  # which of a tuple's members, or of a mapping's entries, are the logits


class OutputError(TypeError):
    """A module returns what cannot be read as logits [B,C]; the message says what it returns, and the mend."""


def reading(module: nn.Module, output: Output | None, is_binary: bool) -> nn.Module:
    """The module with its outputs read: the same layers, weights and names.

    output: which of several outputs are the logits. is_binary: one logit z an image, [B] or [B,1], is [-z, z].
    """
    if output is None and not is_binary:
        return module
    module = Scripted(module) if isinstance(module, torch.jit.ScriptModule) else module
    kind = type(module)

    def forward(self: nn.Module, images: Tensor) -> Tensor:
        outputs = kind.forward(self, images)
        logits = outputs if output is None else _picked(outputs, output, kind.__name__)
        return _two_classes(logits) if is_binary else logits

    made = copy.copy(module)  # shares all that it holds
    made.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
    return made


class Scripted(nn.Module):
    """A scripted or traced module inside one of Python, whose outputs can be read."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.inside = module

    def forward(self, images: Tensor) -> Any:
        """What the module gives."""
        return self.inside(images)


def _two_classes(logits: Any) -> Tensor:
    """The logit and its negative: relevance methods merge the sign into the layer before, as if that had two rows."""
    if isinstance(logits, (tuple, list, Mapping)):
        raise OutputError(f"activation=binary takes one logit an image, not {_described(logits)}: {_mend(logits)}")
    logit = logits.flatten().unsqueeze(1)
    return torch.cat([-logit, logit], 1)


def _picked(outputs: Any, output: Output, name: str) -> Any:
    try:
        if isinstance(output, str) and not isinstance(outputs, Mapping) and hasattr(outputs, output):
            return getattr(outputs, output)
        return outputs[output]
    except (LookupError, TypeError) as error:
        raise OutputError(f"output={output!r} is not in what {name} returns, {_described(outputs)}") from error


def checked(outputs: Any, name: str, images: int) -> Tensor:
    """The outputs, if they are logits [B,C] of B images.

    Raises:
        OutputError: something else.
    """
    if isinstance(outputs, Tensor) and outputs.ndim == 2 and len(outputs) == images and outputs.is_floating_point():
        return outputs
    raise OutputError(f"{name} returns {_described(outputs)} for {images} images, not logits [B,C]: {_mend(outputs)}")


def check_traced(module: fx.GraphModule, name: str) -> None:
    """Raise OutputError where a traced module certainly returns no single tensor."""
    (output,) = [node for node in module.graph.nodes if node.op == "output"]
    if isinstance(output.args[0], (tuple, list, Mapping)):
        raise OutputError(f"{name} returns {_described(output.args[0])}, not logits [B,C]: {_mend(output.args[0])}")


def _described(outputs: Any) -> str:
    """`a tuple of 2 ([4, 10], [4, 512])`, `a dict of logits [4, 10], features [4, 512]`, `[4, 10, 7, 7]`."""
    if isinstance(outputs, Tensor):
        kind = "" if outputs.is_floating_point() else f" of {str(outputs.dtype).removeprefix('torch.')}"
        return f"{list(outputs.shape)}{kind}"
    if isinstance(outputs, Mapping):
        return f"a dict of {', '.join(f'{name} {_shape(value)}' for name, value in outputs.items())}"
    if isinstance(outputs, (tuple, list)):
        return f"a tuple of {len(outputs)} ({', '.join(map(_shape, outputs))})"
    return f"a {type(outputs).__name__}"


def _shape(value: Any) -> str:
    """Of a tensor its shape, of a place in a graph its name."""
    if isinstance(value, fx.Node):
        return value.name
    return str(list(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def _mend(outputs: Any) -> str:
    if isinstance(outputs, Tensor) and outputs.ndim == 1:
        return "one logit an image is two classes: activation=binary"
    if isinstance(outputs, Tensor) and not outputs.is_floating_point():
        return "return floating-point numbers before they are compared, rounded or made complex"
    if isinstance(outputs, Tensor):
        return "pool or flatten what it returns in a module of your own"
    likely = "logits" if isinstance(outputs, Mapping) and "logits" in outputs else 0
    if isinstance(outputs, Mapping) and likely == 0:
        likely = next(iter(outputs), "logits")
    where = "+model.output=... on the command line, `output: ...` in the model's config, Network(..., output=...)"
    return f"say which output they are: output={likely} ({where})"
