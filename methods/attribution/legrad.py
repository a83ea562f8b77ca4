"""LeGrad: what the class' score of each layer's tokens gains by attention (Bousselham et al., ICCV 2025)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from assay.harness.choices import check_choice
from assay.harness.forward import ForwardPass
from assay.harness.graph import close
from assay.harness.heads import Targets
from assay.harness.seeds import SampleRng
from assay.harness.trunk import Trunk
from assay.harness.types import Attribution, Needs
from torch import Tensor

from .attended import attended, is_before, read_tokens
from .attention import on_patches
from .relevance.engine import Tape

Pool = Literal["head", "mean"]
POOLS = ("head", "mean")
OTHERS = "generic_attention and transformer_attribution explain it without scores of inner layers"


@dataclass(frozen=True)
class LeGrad:
    """Mean over layers, heads and queries of max(ds_l/dA_l, 0), s_l the class' score of the tokens behind layer l.

    pool: what is scored: head, by the network's own head as it is (the final norm, the class token or the mean of the
    patches, the last layer); mean, the mean over all tokens in the place of each (the published code's, of CLIP).
    last: of how many of the last layers; None: of all.
    """

    pool: Pool = "head"
    last: int | None = None
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_choice("pool", self.pool, POOLS)
        if self.last is not None and self.last < 1:
            raise ValueError(f"last={self.last}: choose 1 or more layers, or null for all")

    def needs(self) -> Needs:
        """Nothing shared: the pass is recorded."""
        return Needs()

    def attribute(self, forward: ForwardPass, targets: Targets, rng: SampleRng) -> Attribution:
        """[P,h,w], a value a patch, not negative."""
        trunk = _trunk(forward)
        tape = attended(forward, type(self).__name__, layers=trunk.layers)
        _check(tape, trunk)
        read_tokens(tape)  # that the patches are where they are looked for
        scored = [self._scored(tape, trunk, layer) for layer in trunk.layers]
        return Attribution(tape.by_pair(targets, partial(self._map, tape, trunk, scored)))

    def _scored(self, tape: Tape, trunk: Trunk, layer: str) -> tuple[Tensor, Tensor]:
        """A layer's tokens, as a leaf, and the logits [B,C] that the head makes of them."""
        tokens = tape.at(layer)
        dim = None if self.pool == "head" else _tokens_of(tape, layer)
        leaf = tokens.detach().requires_grad_()
        tape.network.passes.head += len(tape.inputs)
        with torch.enable_grad():
            return leaf, trunk.logits(leaf if dim is None else leaf.mean(dim, keepdim=True).expand_as(leaf))

    def _map(self, tape: Tape, trunk: Trunk, scored: Sequence[tuple[Tensor, Tensor]], one_hot: Tensor) -> Tensor:
        """[B,h,w] of one round of pairs."""
        chosen = list(zip(trunk.layers, tape.attentions, scored, strict=True))[-self.last if self.last else None :]
        found = [_sensitivity(tape, layer, attention, *each, one_hot) for layer, attention, each in chosen]
        return on_patches(torch.stack(found).mean(0), tape.inputs.detach())


def _tokens_of(tape: Tape, layer: str) -> int:
    """Along which dimension of a layer [B,N,D] or [N,B,D] tokens lie."""
    tokens = tape.at(layer)
    images = tape.images_of(tokens)
    if tokens.ndim != 3 or images not in (-3, -2):
        raise ValueError(f"pool=mean: layer {layer!r} gives {list(tokens.shape)}, not [batch, tokens, channels]")
    return 1 if images == -3 else 0


def _sensitivity(tape: Tape, layer: str, attention: Tensor, leaf: Tensor, logits: Tensor, one_hot: Tensor) -> Tensor:
    """Of one layer, a value a token as a key: [B,N]."""
    tape.network.passes.head += len(one_hot)
    (gradient,) = torch.autograd.grad(logits, leaf, one_hot, retain_graph=True)
    return tape.pull(None, tape.at(layer), gradient, attention).clamp(min=0).mean((1, 2))


def _trunk(forward: ForwardPass) -> Trunk:
    try:
        return forward.network.trunk(forward.inputs)
    except ValueError as error:
        attended(forward, LeGrad.__name__)  # where it refuses as well, it says more
        raise ValueError(
            f"LeGrad scores the tokens behind each attention by the network's head, and {error}"
        ) from error


def _check(tape: Tape, trunk: Trunk) -> None:
    """Raise ValueError unless each layer lies behind its attention alone, and the head gives the logits.

    What the graph shows and what the pass records are found apart.
    """
    layers, attentions = [tape.at(name) for name in trunk.layers], tape.attentions
    is_one_each = len(layers) == len(attentions) and all(map(is_before, attentions, layers))
    if not is_one_each or any(map(is_before, attentions[1:], layers)):
        raise ValueError(
            f"LeGrad reads the tokens behind each attention, and this network's graph shows {len(layers)} "
            f"({', '.join(trunk.layers)}) where its pass has {len(attentions)} attentions: {OTHERS}"
        )
    with torch.no_grad():
        found = trunk.logits(layers[-1].detach())
    if not close(found, tape.logits.detach()):
        raise ValueError(f"LeGrad: the head from layer {trunk.layers[-1]!r} gives other logits than the network")
