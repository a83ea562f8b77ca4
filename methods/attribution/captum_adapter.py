"""Any attribution class of Captum by its name, in Captum's own code."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.seeds import SampleRng
from assay.harness.types import Attribution, Needs
from torch import Tensor

from .adapters import Twin, check_names, imported, near, pair_seeds, parameters, seeded
from .gradient import BASELINES, Reduce, reduce_channels

# First parameters of constructors that take a network, or (NoiseTunnel) another method.
NETWORK, METHOD = ("forward_func", "model"), "attribution_method"
REFUSED = {
    "FeaturePermutation": "its map of an image depends on the other images of the batch",
    "LayerFeaturePermutation": "its map of an image depends on the other images of the batch",
    "LimeBase": "it takes Python functions, which no config can give; use Lime",
}
RANDOM = (
    *("GradientShap", "LayerGradientShap", "NeuronGradientShap"),
    *("KernelShap", "Lime", "NoiseTunnel", "ShapleyValueSampling"),
)
GIVEN = ("self", "inputs", "target", "additional_forward_args", "kwargs")  # filled in by the adapter, or not at all
NO_MAPS = ("return_convergence_delta", "return_input_shape")  # change what is returned


@dataclass(frozen=True)
class Captum:
    """An attribution class of Captum (Kokhlikyan et al. 2020), with the network's normalised input.

    Captum sees a twin of the network without in-place modules and without modules that are called twice, as its hooks
    want it; ReLUs in functional form (DenseNet's last, GoogLeNet's) stay hidden from its Guided, Deconvolution,
    DeepLift and LRP. Classes that draw random numbers are run pair by pair, seeded from (seed, sample), so that a map
    does not depend on its batch; the numbers are those of the device's generator.

    attribution: a class of `captum.attr`, as Saliency, LayerConductance, Occlusion, NoiseTunnel.
    options: of its constructor; NoiseTunnel's `attribution_method` is the name of the class that it wraps, whose own
        options stand beside it.
    arguments: of its `attribute`, lists for tuples. `baselines` is a number, or mean (zero in normalised space), black
        or white, or a list of these; `feature_mask` is the side in pixels of the squares that are one feature.
    layer: module path, for classes that take one; their maps have the layer's resolution.
    reduce: how channels become one map.

    Needs Captum (`pip install '.[adapters]'`).
    """

    attribution: str = "Saliency"
    options: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    layer: str | None = None
    reduce: Reduce = "sum"
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        outer, inner = self._classes
        taken = parameters(inner)
        check_names(f"{inner.__name__}'s options", self._inner_options, taken, (*NETWORK, "layer"))
        check_names(f"{outer.__name__}'s arguments", self.arguments, self._accepted, (*GIVEN, *NO_MAPS))
        if ("layer" in taken) != (self.layer is not None):
            why = "explains a layer: set layer to a module's path" if "layer" in taken else "takes no layer: unset it"
            raise ValueError(f"{inner.__name__} {why}")
        _baseline_names(self.arguments.get("baselines"))

    @property
    def _classes(self) -> tuple[type, type]:
        """The class that is called, and the one that takes the network: the same but for NoiseTunnel."""
        outer = _class_of(self.attribution)
        if METHOD not in parameters(outer):
            return outer, outer
        if METHOD not in self.options:
            raise ValueError(f"{self.attribution} wraps another class: name it in options.{METHOD}, as Saliency")
        inner = _class_of(self.options[METHOD])
        if METHOD in parameters(inner):
            raise ValueError(f"options.{METHOD}={self.options[METHOD]}: name a class that takes the network itself")
        return outer, inner

    @property
    def _inner_options(self) -> dict[str, Any]:
        return {name: value for name, value in self.options.items() if name != METHOD}

    @property
    def _accepted(self) -> dict[str, inspect.Parameter]:
        """Parameters of `attribute`, with those that a wrapper hands on."""
        outer, inner = self._classes
        return parameters(inner.attribute) | parameters(outer.attribute)  # type: ignore[attr-defined]

    @property
    def _is_random(self) -> bool:
        return self.attribution in RANDOM

    def needs(self) -> Needs:
        """Nothing shared: Captum makes its own passes, through the twin."""
        return Needs()

    def attribute(self, forward: ForwardPass, targets: Targets, rng: SampleRng) -> Attribution:
        """[P,H,W], or [P,h,w] at the layer's resolution."""
        method = self._built(Twin(forward.network, forward.inputs[:1].detach()))
        seeds, rows = pair_seeds(rng), 1 if self._is_random else forward.max_rows
        maps = []
        for pairs in torch.arange(len(targets.image), device=targets.image.device).split(rows):
            with seeded(seeds[int(pairs[0])], forward.inputs.device), torch.enable_grad():
                maps.append(self._maps(method, forward, Targets(targets.image[pairs], targets.label[pairs])))
        return Attribution(reduce_channels(torch.cat(maps), self.reduce), layer=self.layer)

    def _built(self, twin: Twin) -> Any:
        outer, inner = self._classes
        placed = {} if self.layer is None else {"layer": twin.layer(self.layer)}
        built = inner(twin, **placed, **_as_tuples(self._inner_options))
        return built if outer is inner else outer(built)

    def _maps(self, method: Any, forward: ForwardPass, targets: Targets) -> Tensor:
        """[P,C,h,w] of as many pairs as go through the network together."""
        inputs = forward.inputs.detach()[targets.image].requires_grad_()
        try:
            made = method.attribute(inputs, **self._settings(forward, targets))
        except (AssertionError, AttributeError) as error:  # how Captum says that it cannot work with what it got
            why = f"{self.attribution} does not work with this network or setting"
            raise ValueError(f"captum's {why} ({type(error).__name__}: {str(error)[:200]})") from error
        if not isinstance(made, Tensor) or made.ndim != 4:
            shape = list(made.shape) if isinstance(made, Tensor) else type(made).__name__
            raise ValueError(f"captum's {self.attribution} returned {shape}: a map is [pairs, channels, height, width]")
        return made.detach()

    def _settings(self, forward: ForwardPass, targets: Targets) -> dict[str, Any]:
        """Keyword arguments of `attribute`: the target, batches as large as allowed, and what the config says."""
        ours = {"target": targets.label, "internal_batch_size": forward.max_rows}
        if self._is_random:  # one pair a call; of several, Captum's layer classes lose count of the targets
            ours["perturbations_per_eval"] = forward.max_rows
        accepted = self._accepted
        theirs = _as_tuples(dict(self.arguments))
        if names := _baseline_names(theirs.get("baselines")):
            theirs["baselines"] = torch.cat([BASELINES[name](forward) for name in names])
        if isinstance(theirs.get("feature_mask"), int):
            theirs["feature_mask"] = squares(forward.inputs, theirs["feature_mask"])
        return {name: value for name, value in ours.items() if name in accepted} | theirs


def squares(inputs: Tensor, side: int) -> Tensor:
    """Number of the square of `side` pixels that each pixel lies in, row by row: int64 [1,1,H,W]."""
    rows, columns = (torch.arange(length, device=inputs.device) // side for length in inputs.shape[2:])
    return (rows[:, None] * (int(columns[-1]) + 1) + columns)[None, None]


def _as_tuples(value: Any) -> Any:
    """Lists as tuples, at any depth: YAML has no tuples, Captum takes no lists."""
    if isinstance(value, Mapping):
        return {name: _as_tuples(each) for name, each in value.items()}
    return tuple(_as_tuples(each) for each in value) if isinstance(value, list | tuple) else value


def supported() -> dict[str, type]:
    """Classes of captum.attr that explain a network's outputs, by name."""
    library = imported("captum", "captum.attr")
    found = {name: getattr(library, name) for name in library.__all__}
    return {name: each for name, each in found.items() if _explains_network(each) and name not in REFUSED}


def _explains_network(found: Any) -> bool:
    if not (inspect.isclass(found) and callable(getattr(found, "attribute", None))):
        return False
    return next(iter(parameters(found)), None) in (*NETWORK, METHOD)


def _class_of(name: str) -> type:
    known = supported()
    if name in REFUSED:
        raise ValueError(f"captum's {name} cannot be used: {REFUSED[name]}")
    if name not in known:
        raise ValueError(near(name, known, "attribution class of captum that can be used"))
    return known[name]


def _baseline_names(baselines: Any) -> list[str]:
    """Names of images to start from; none when `baselines` is a number or not given."""
    if isinstance(baselines, str):
        baselines = [baselines]
    names = list(baselines) if isinstance(baselines, list | tuple) else []
    if unknown := [name for name in names if name not in BASELINES]:
        raise ValueError(f"arguments.baselines: {unknown[0]!r}; give a number or some of {', '.join(BASELINES)}")
    return names
