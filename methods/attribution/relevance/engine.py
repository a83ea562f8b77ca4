"""The relevance engine: a network runs as it is, and its backward pass follows rules instead of derivatives.

`Tape.record` runs the module under a `TorchFunctionMode` (recording.py), which sees each convolution, pool, addition,
... that any module or function calls, and records it as an autograd node (nodes.py) whose backward is a rule
(table.py). Structural operations keep ordinary autograd, so fan-out, concatenation and slicing need no rules. Relevance
is then `torch.autograd.grad` from wherever a method starts to wherever it stops (`Tape.pull`); the table is chosen at
each pull, and no table at all gives the ordinary gradient. Nothing is patched or hooked that outlives the forward pass.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from assay.harness.forward import ForwardPass, check_rows
from assay.harness.heads import NO_GRADIENT, Targets
from assay.harness.network import Network
from torch import Tensor, nn

from ..layers import spatial
from .alarm import Peak, check_size, expected_size, largest, of_images
from .nodes import State, Watch, ends_of
from .recording import Attention, RelevanceMode
from .table import Constancy, RuleTable


class Tape:
    """One recorded forward pass: tensors with a graph of rules.

    inputs: normalised [B,3,H,W], the leaf. logits: [B,C]. layers: the named layers' outputs [B,...]. attentions: each
    softmax that a product reads, in the order of calls ([B,heads,N,N] where all tokens attend to all). attended: what
    is known of each. unread: shapes of other softmaxes, but those of vectors.
    """

    def __init__(
        self,
        network: Network,
        inputs: Tensor,
        logits: Tensor,
        layers: dict[str, Tensor],
        state: State,
        attended: Sequence[Attention] = (),
        unread: Sequence[tuple[int, ...]] = (),
    ) -> None:
        self.network, self.inputs, self.logits, self.layers = network, inputs, logits, layers
        self._state, self.attended, self.unread = state, tuple(attended), tuple(unread)
        self.attentions = tuple(each.weights for each in attended)

    @classmethod
    def record(
        cls,
        forward: ForwardPass,
        layers: Sequence[str] = (),
        batch_norm: Constancy = "fold",
        before_constants: bool = False,
    ) -> "Tape":
        """Run the network on the batch.

        Args:
            layers: names, as in `Network`, whose outputs relevance shall start from or stop at. Module paths need no
                tracing; names of functional operations do.
            batch_norm: `fold` merges it into the layer before it where there is one; `pass` leaves relevance as it is;
                `apart` merges nothing, constants neither, for the ordinary gradient alone.
            before_constants: of a layer whose output is a constant factor and shift of another value, give that value:
                for methods that pass all relevance there, so that maps are those of the merged network.

        Raises:
            UnsupportedOp: the network calls something without a rule.
            ValueError: no such layer, it was not called, it returns no tensor, or its output was folded away.
        """
        network, state = forward.network, State()
        leaf = forward.inputs.detach().requires_grad_()
        state.images = len(leaf)
        state.set_place(leaf, -leaf.ndim)
        by_hook = set(layers) <= {name for name, _ in network.module.named_modules()}
        for layer in () if by_hook else layers:
            network.check_layer(layer)
        mode = RelevanceMode(state, network.module, batch_norm)
        end = mode.before_constants if before_constants else mode.kept
        with torch.enable_grad(), mode:
            if by_hook:
                with _outputs(network.module, layers, end) as found:
                    logits = network(leaf)
            else:
                logits, values = network.run(leaf, tuple(layers))
                found = {name: value.activation for name, value in values.items()}
                found = {name: end(value) for name, value in found.items()} if before_constants else found
        if not mode.latest(logits).requires_grad:
            raise ValueError(NO_GRADIENT)
        state.ends = ends_of(mode.latest(logits))
        kept = {name: _tensor(name, found) for name in layers}
        mode.check([mode.latest(logits), *kept.values()], list(kept))
        return cls(network, leaf, mode.latest(logits), kept, state, mode.attentions, mode.unread())

    def at(self, layer: str | None) -> Tensor:
        """The layer's output, or for None the input."""
        return self.inputs if layer is None else self.layers[layer]

    def images_of(self, value: Tensor) -> int | None:
        """Along which dimension of a value images lie, counted from the last, -1; None: calls do not say."""
        return self._state.place_of(value)

    def feature_map(self, layer: str | None) -> Tensor:
        """The layer's output, or for None the input, checked to be [B,K,h,w]."""
        values = spatial(self.at(layer), layer, self.inputs.shape[2:])
        check_rows(str(layer), values, len(self.inputs))
        if layer is not None and not self.network.has_channels_first(layer):
            raise ValueError(
                f"layer {layer!r} gives {list(values.shape)}, and by the network's graph its channels come last or "
                "that is open: relevance starts from and stops at layers with channels first; choose one of those"
            )
        return values

    def is_after_last(self, layer: str) -> bool:
        """Whether no convolution or linear layer lies between the layer's output and the logits."""
        return self._state.depth_of(self.at(layer)) == self._state.depth_of(self.logits)

    def pull(
        self, table: RuleTable | None, outputs: Tensor, start: Tensor, wrt: Tensor, watch: Watch | None = None
    ) -> Tensor:
        """Relevance of `wrt` [B,...] when `outputs` have the relevance `start`; no table: the ordinary gradient.

        watch: told each operation that is passed, with the relevance (gradient) of its output.

        Raises:
            ValueError: a name pattern of the table matches nothing, or nothing passes from `outputs` to `wrt`.
        """
        (relevance,) = self._pulled(table, outputs, start, [wrt], watch)
        if relevance is None:
            later, earlier = self._called(outputs), self._called(wrt)
            raise ValueError(
                f"no relevance passes from {later} to {earlier}: {later} must come later in the network, and not only "
                "by way of a sigmoid, whose output is a gate and takes no relevance, nor by way of a softmax in "
                "cp_lrp, to which that is a constant (of a network that ends in a sigmoid or softmax, explain the part "
                "before it)"
            )
        if table is not None:
            self._check_size(table, outputs, start, [Peak(self._called(wrt), largest(relevance))])
        return relevance

    def pull_to_attentions(self, table: RuleTable | None, start: Tensor, last: bool = False) -> list[Tensor]:
        """Relevance of each of `attentions` when the logits have the relevance `start`; no table: the gradient.

        last: of the last one alone, which takes a pass through the network's end and no more.
        """
        chosen = self.attentions[-1:] if last else self.attentions
        found = self._pulled(table, self.logits, start, chosen)
        if table is not None:
            self._check_size(table, self.logits, start, [])
        return [torch.zeros_like(a) if r is None else r for r, a in zip(found, chosen, strict=True)]

    def _pulled(
        self,
        table: RuleTable | None,
        outputs: Tensor,
        start: Tensor,
        wrt: Sequence[Tensor],
        watch: Watch | None = None,
    ) -> Sequence[Tensor | None]:
        """What arrives at each of `wrt`; None where nothing does."""
        if table is not None:
            table.check_names(self._state.affine_layers)
            self._check_last(table)
        self._state.table, self._state.watch, self._state.peaks = table, watch, []
        if table is None:
            self.network.passes.head += len(start)
        else:
            self.network.passes.backward += len(start)
        found = torch.autograd.grad(outputs, wrt, start, retain_graph=True, allow_unused=True)
        self._state.watch = None
        return found

    def _check_size(self, table: RuleTable, outputs: Tensor, start: Tensor, ends: Sequence[Peak]) -> None:
        """Warn of relevance that outgrows what it starts with, or refuse it."""
        images = len(self.inputs)
        peaks = [peak._replace(size=of_images(peak.size, images)) for peak in (*self._state.peaks, *ends)]
        expected = of_images(expected_size(outputs.detach(), start, table.gradient_after_last), images)
        if peaks:
            takes_one_sign = not self._state.kinds & {"normalise", "softmax", "product"}
            check_size(peaks, expected.clamp(min=table.adds), table.method, table.may_grow, takes_one_sign)

    def _check_last(self, table: RuleTable) -> None:
        """Raise ValueError where a rule of one last layer meets several."""
        last = sorted(self._state.ends.last)
        if table.gradient_after_last and len(last) > 1:
            names = ", ".join(repr(self._state.affine_layers[number - 1]) for number in last)
            raise ValueError(
                f"{table.method} starts at one last layer, and these logits are made of several ({names}): join their "
                "inputs in front of one layer"
            )

    def _called(self, value: Tensor) -> str:
        """What a message calls the input, the logits or a layer's output."""
        known = {"the input": self.inputs, "the logits": self.logits}
        known |= {f"layer {name!r}": output for name, output in self.layers.items()}
        return next(name for name, output in known.items() if output is value)

    def by_pair(self, targets: Targets, relevance: Callable[[Tensor], Tensor]) -> Tensor:
        """Relevance of each pair: [P,...].

        relevance: from one-hot rows [B,C] (zero for images without a pair) to [B,...]; called once a round of
            pairs that hold each image at most once.
        """
        rounds = targets.rounds()
        parts = [relevance(torch.zeros_like(self.logits))[:0]] if not rounds else []
        for pairs in rounds:
            one_hot = torch.zeros_like(self.logits)
            one_hot[targets.image[pairs], targets.label[pairs]] = 1
            parts.append(relevance(one_hot)[targets.image[pairs]])
        result = torch.cat(parts)[torch.argsort(torch.cat(rounds))] if rounds else parts[0]
        is_known = self.logits.isfinite().all(1)[targets.image]  # rules read 0/0 as 0, whatever it came from
        return result.masked_fill_(~is_known.view(-1, *[1] * (result.ndim - 1)), torch.nan)


@contextmanager
def _outputs(module: nn.Module, layers: Sequence[str], latest: Callable[[Any], Any]) -> Iterator[dict[str, Any]]:
    """What the named submodules return, the last call of each, before later modules write into it."""
    found: dict[str, Any] = {}
    handles = [
        module.get_submodule(layer).register_forward_hook(partial(_keep, found, layer, latest))
        for layer in dict.fromkeys(layers)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _keep(
    found: dict[str, Any], layer: str, latest: Callable[[Any], Any], module: nn.Module, inputs: Any, output: Any
) -> None:
    found[layer] = latest(output)


def _tensor(layer: str, found: Mapping[str, Any]) -> Tensor:
    if layer not in found:
        raise ValueError(f"layer {layer!r} was not reached: the forward pass does not call this module")
    value = found[layer]
    if not isinstance(value, Tensor):
        raise ValueError(f"layer {layer!r} returns a {type(value).__name__}, not a tensor: choose one inside it")
    if not value.requires_grad:
        raise ValueError(f"no relevance reaches layer {layer!r}: choose one between the input and the logits")
    return value
