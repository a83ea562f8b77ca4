"""Any registered composite of Zennit by its name, in Zennit's own code."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.network import Network
from assay.harness.seeds import SampleRng
from assay.harness.types import Attribution, Needs
from torch import Tensor, nn

from .adapters import Twin, imported, near, pair_seeds, seeded
from .gradient import Reduce, reduce_channels

ATTRIBUTORS = {"gradient": "Gradient", "smoothgrad": "SmoothGrad", "integrated_gradients": "IntegratedGradients"}
CANONIZERS = ("auto", "none", "vgg", "resnet", "batch_norm")
FUNCTIONS = ("layer_map", "first_map", "canonizers")  # what no config can give
LOGITS_RTOL = 1e-2  # a merged batch-norm still divides by sqrt(1 + eps), 5e-6 a layer; a wrong merge is far off
MISFIT = (
    "canonizer={} does not fit this network ({}): it has batch-norms that do not follow their linear layer in the "
    "order of its modules; use canonizer=none"
)


@dataclass(frozen=True)
class Zennit:
    """A composite of Zennit (Anders et al. 2021): one rule for each kind of module, from the logits to the input.

    Zennit sees a twin of the network, so that hooks and merged batch-norms never reach the network itself. It gives
    rules to modules alone: functional ReLUs and additions keep their gradient, so that relevance is conserved only
    where a canonizer has made them modules (torchvision's ResNet). A canonizer that changes the logits is an error.

    composite: a name of `zennit.composites.COMPOSITES`, as epsilon_plus, epsilon_gamma_box, excitation_backprop.
    options: of its constructor; `low` and `high` of box rules are black and white, normalised, unless given.
    canonizer: auto (resnet or batch_norm where the network has them), none, vgg and batch_norm (merge batch-norms into
        the linear layer before them), resnet (also torchvision's additions as modules).
    attributor: gradient, smoothgrad (random: run pair by pair, seeded from (seed, sample)) or integrated_gradients.
    attributor_options: n_iter, noise_level.
    start: relevance of the explained output. `one` is Zennit's convention: a map of rules that conserve relevance sums
        to 1, and has the opposite sign of `logit`'s where the logit is negative. `logit`: it sums to the logit.
    reduce: how channels become one map.

    Needs Zennit (`pip install '.[adapters]'`).
    """

    composite: str = "epsilon_plus"
    options: Mapping[str, Any] = field(default_factory=dict)
    canonizer: str = "auto"
    attributor: str = "gradient"
    attributor_options: Mapping[str, Any] = field(default_factory=dict)
    start: Literal["one", "logit"] = "one"
    reduce: Reduce = "sum"
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        known = imported("zennit", "zennit.composites").COMPOSITES
        for name, value, choices in [
            ("composite", self.composite, known),
            ("canonizer", self.canonizer, CANONIZERS),
            ("attributor", self.attributor, ATTRIBUTORS),
            ("start", self.start, ("one", "logit")),
        ]:
            if value not in choices:
                raise ValueError(near(value, choices, f"{name} of zennit"))
        self._check_options("composite", self.options, known[self.composite], FUNCTIONS)
        base = ("model", "composite", "attr_output", "create_graph", "retain_graph", "baseline_fn")
        self._check_options("attributor", self.attributor_options, self._attributor_class, base)

    def _check_options(self, what: str, options: Mapping[str, Any], made: type, ours: tuple[str, ...]) -> None:
        valid = [name for name in inspect.signature(made).parameters if name not in ours]
        for name in options:
            if name not in valid:
                raise ValueError(near(name, valid, f"option of zennit's {what} {getattr(self, what)}"))

    @property
    def _attributor_class(self) -> Any:
        return getattr(imported("zennit", "zennit.attribution"), ATTRIBUTORS[self.attributor])

    def needs(self) -> Needs:
        """Nothing shared: the graph has other backward rules."""
        return Needs()

    def attribute(self, forward: ForwardPass, targets: Targets, rng: SampleRng) -> Attribution:
        """[P,H,W]."""
        inputs = forward.inputs.detach()
        twin = Twin(forward.network, inputs[:1])
        attributor = self._attributor_class(twin, self._composite(forward.network, twin), **self.attributor_options)
        seeds, rows = pair_seeds(rng), 1 if self.attributor == "smoothgrad" else forward.max_rows
        maps = []
        with attributor:
            for pairs in torch.arange(len(targets.image), device=inputs.device).split(rows):
                image, label = targets.image[pairs], targets.label[pairs]
                with seeded(seeds[int(pairs[0])], inputs.device), torch.enable_grad():
                    logits, relevance = attributor(inputs[image].requires_grad_(), self._start(forward.logits, label))
                self._check_logits(logits, forward.logits[image])
                maps.append(relevance.detach())
        return Attribution(reduce_channels(torch.cat(maps), self.reduce))

    def _start(self, like: Tensor, label: Tensor) -> Any:
        """The relevance of the logits [P,C], as a function of them."""
        chosen = nn.functional.one_hot(label, like.shape[1]).to(like)
        return (lambda logits: chosen) if self.start == "one" else (lambda logits: chosen * logits.detach())

    def _composite(self, network: Network, twin: Twin) -> Any:
        made = imported("zennit", "zennit.composites").COMPOSITES[self.composite]
        low, high = network.normalise(network.mean.new_tensor([0.0, 1.0]).view(2, 1, 1, 1)).split(1)  # [1,3,1,1]
        taken = inspect.signature(made).parameters
        box = {name: value for name, value in {"low": low, "high": high}.items() if name in taken}
        return made(**(box | dict(self.options)), canonizers=canonizers(self.canonizer, twin))

    def _check_logits(self, found: Tensor, expected: Tensor) -> None:
        atol = LOGITS_RTOL * float(expected.abs().max())
        if not torch.allclose(found, expected, rtol=LOGITS_RTOL, atol=atol, equal_nan=True):
            raise ValueError(MISFIT.format(self.canonizer, "other logits"))


def canonizers(name: str, twin: Twin) -> list[Any]:
    """Zennit's canonizers by our name of them, tried on the twin; `auto` looks at its modules."""
    if name == "none":
        return []
    library = imported("zennit", "zennit.torchvision")
    made = {
        "resnet": library.ResNetCanonizer,
        "vgg": library.VGGCanonizer,
        "batch_norm": imported("zennit", "zennit.canonizers").SequentialMergeBatchNorm,
    }
    blocks = (library.ResNetBottleneck, library.ResNetBasicBlock)
    found = "resnet" if any(isinstance(each, blocks) for each in twin.modules()) else "batch_norm"
    canonizer = made[found if name == "auto" else name]()
    try:
        for applied in canonizer.apply(twin):
            applied.remove()
    except RuntimeError as error:
        raise ValueError(MISFIT.format(name, error)) from error
    return [canonizer]
