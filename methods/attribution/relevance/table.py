"""Which rule each operation takes (`RuleTable`), how its kind asks for it, and the settings that methods share."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, TypeVar

from assay.harness.choices import check_choice
from torch import Tensor

from . import rules
from .operations import Operation, UnsupportedOp
from .rules import AffineRule, MapRule, ProductRule, ScaleRule, ShiftRule, SoftmaxRule, SumRule

BatchNorm = Literal["fold", "pass", "pass_nonzero"]
BATCH_NORM: dict[str, ScaleRule] = {
    "fold": rules.through,
    "pass": rules.through,
    "pass_nonzero": rules.through_nonzero,
}
SHIFT: dict[str, ShiftRule] = {  # of methods that leave biases out
    "fold": rules.shift_takes_nothing,
    "pass": rules.shift_takes_nothing,
    "pass_nonzero": rules.shift_takes_nothing_nonzero,
}


def check_batch_norm(choice: str) -> None:
    """Raise ValueError unless it is one of `BATCH_NORM`."""
    check_choice("batch_norm", choice, BATCH_NORM)


# Of constants, batch-norms among them, when a tape is recorded: merged into the layers around them; those after a layer
# left by themselves; all by themselves, each with its shift, as no relevance but the ordinary gradient needs them.
Constancy = Literal["fold", "pass", "pass_nonzero", "apart"]


Start = Literal["logit", "one"]


def check_start(choice: str) -> None:
    """Raise ValueError unless it is a known start of relevance."""
    if choice not in ("logit", "one"):
        raise ValueError(f"start={choice!r}: choose logit (the class' own, with its sign) or one")


@dataclass(frozen=True)
class RuleTable:
    """Which rule each operation takes.

    affine: convolutions and fully connected layers. first: those that read the input. last: the last one on the way to
    the logits.
    named: module path patterns (`features.1?`, `layer4.*`) -> rule, before all others. pool: average pools and means.
    joint: logsumexp over positions. maximum: max-pools. activation: ReLU, SiLU, ... norm: batch-norms that follow an
    affine layer. factor: constants that multiply, where they cannot be merged into the next affine layer. shift: those
    that add, and other batch-norms. add: sums of two activations.
    normalise: norms of each token (layer-norm, ...), whose size is a constant. softmax, product: of attention and of
    gates; the operations of a rule that is None are refused. stabiliser: of products, see `rules.stabilised_`.
    gradient_after_last: what follows the last affine layer (SqueezeNet's ReLU and pool) takes its ordinary gradient.
    gradients: of what is explained with respect to the outputs of operations, for rules that read them from the layer.
    method: whose table it is, for messages. may_grow: relevance that outgrows the logits is said, and never refused.
    adds: the size of what rules add to relevance, which is then expected whatever the logits are.
    by_image: rules that weigh an image's values against one another need its layers to have one row an image.
    """

    affine: AffineRule
    first: AffineRule | None = None
    last: AffineRule | None = None
    named: Mapping[str, AffineRule] = field(default_factory=dict)
    pool: MapRule = rules.share
    joint: MapRule = rules.share
    maximum: MapRule = rules.gradient
    activation: MapRule = rules.identity
    norm: ScaleRule = rules.through
    factor: MapRule = rules.identity
    shift: ShiftRule = rules.shift_keeps
    add: SumRule = rules.proportional
    normalise: MapRule | None = None
    softmax: SoftmaxRule | None = None
    product: ProductRule | None = None
    stabiliser: float = 0
    gradient_after_last: bool = False
    gradients: Mapping[Operation, Tensor] = field(default_factory=dict)
    method: str = "this method"
    may_grow: bool = False
    adds: float = 0
    by_image: bool = False

    def of_affine(self, operation: Operation, is_last: bool) -> AffineRule:
        """The rule of one convolution or fully connected layer."""
        assert operation.affine is not None
        for pattern, rule in self.named.items():
            if fnmatchcase(operation.affine.layer, pattern):
                return rule
        if self.first is not None and operation.depths[0] == 0:
            return self.first
        return self.last if self.last is not None and is_last else self.affine

    def check_names(self, layers: Sequence[str]) -> None:
        """Raise ValueError unless each pattern matches one of the convolutions and linear layers at these paths."""
        for pattern in self.named:
            if not any(fnmatchcase(layer, pattern) for layer in layers):
                near = difflib.get_close_matches(pattern, sorted({*layers} - {""}), n=3, cutoff=0)
                raise ValueError(
                    f"layers: {pattern!r} matches no convolution or linear layer that was called, and only these take "
                    f"rules by name; near names: {', '.join(map(repr, near)) or 'none'}"
                )


Rule = TypeVar("Rule", MapRule, ProductRule, SoftmaxRule)
Relevances = tuple[Tensor | None, ...]


def _affine(table: RuleTable, op: Operation, relevance: Tensor, is_last: bool) -> Relevances:
    assert op.affine is not None
    layer = op.affine if op not in table.gradients else op.affine._replace(gradient=table.gradients[op])
    return (table.of_affine(op, is_last)(op.inputs[0], layer, relevance),)


def _norm(table: RuleTable, op: Operation, relevance: Tensor, is_last: bool) -> Relevances:
    assert op.factor is not None
    return (table.norm(op.inputs[0], op.factor, relevance),)


def _pool(table: RuleTable, op: Operation, relevance: Tensor, is_last: bool) -> Relevances:
    return (table.pool(op.inputs[0], op.function, relevance),)


def _joint(table: RuleTable, op: Operation, relevance: Tensor, is_last: bool) -> Relevances:
    return (table.joint(op.inputs[0], op.function, relevance),)


def _maximum(table: RuleTable, op: Operation, relevance: Tensor, is_last: bool) -> Relevances:
    return (table.maximum(op.inputs[0], op.function, relevance),)


def _activation(table: RuleTable, op: Operation, relevance: Tensor, is_last: bool) -> Relevances:
    return (table.activation(op.inputs[0], op.function, relevance),)


def _shift(table: RuleTable, op: Operation, relevance: Tensor, is_last: bool) -> Relevances:
    if op.shift is None:
        return (table.factor(op.inputs[0], op.function, relevance),)
    assert op.factor is not None
    return (table.shift(op.inputs[0], op.factor, op.shift, relevance),)


def _winner(table: RuleTable, op: Operation, relevance: Tensor, is_last: bool) -> Relevances:
    return rules.vjp(op.function, op.inputs, relevance)


def _add(table: RuleTable, op: Operation, relevance: Tensor, is_last: bool) -> Relevances:
    return table.add(op.inputs, op.depths, relevance)


def _gated(table: RuleTable, op: Operation, relevance: Tensor, is_last: bool) -> Relevances:
    return (rules.identity(op.inputs[0], op.function, relevance), None)


def _gate(table: RuleTable, op: Operation, relevance: Tensor, is_last: bool) -> Relevances:
    return (None,)  # a gate says how much passes, not what: no relevance


def _normalise(table: RuleTable, op: Operation, relevance: Tensor, is_last: bool) -> Relevances:
    assert op.frozen is not None
    return (_rule_of(table.normalise, table, op)(op.inputs[0], op.frozen, relevance),)


def _softmax(table: RuleTable, op: Operation, relevance: Tensor, is_last: bool) -> Relevances:
    return (_rule_of(table.softmax, table, op)(op.inputs[0], op.function, relevance),)


def _product(table: RuleTable, op: Operation, relevance: Tensor, is_last: bool) -> Relevances:
    return _rule_of(table.product, table, op)(op.inputs, op.function, op.weights, relevance, table.stabiliser)


WHY = {
    "normalise": "divides by the size of all values of a token",
    "softmax": "weighs values against one another",
    "product": "multiplies two activations of which none is the output of a sigmoid",
}


def _rule_of(rule: Rule | None, table: RuleTable, op: Operation) -> Rule:
    """The rule.

    Raises:
        UnsupportedOp: the table has none.
    """
    if rule is None:
        raise UnsupportedOp(op.name, f"{WHY[op.kind]}, for which {table.method} has no rule")
    return rule


HANDLERS: dict[str, Callable[[RuleTable, Operation, Tensor, bool], Relevances]] = {
    "affine": _affine,
    "norm": _norm,
    "pool": _pool,
    "joint": _joint,
    "maximum": _maximum,
    "activation": _activation,
    "shift": _shift,
    "statistics": _shift,
    "winner": _winner,
    "add": _add,
    "gated": _gated,
    "gate": _gate,
    "normalise": _normalise,
    "softmax": _softmax,
    "product": _product,
}
