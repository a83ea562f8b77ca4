"""Does the map depend on what the network has learned? Its likeness to the maps of ever more random networks."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar
from weakref import WeakKeyDictionary

import pandas as pd
import torch
from assay.harness import stats
from assay.harness.forward import ForwardPass
from assay.harness.frames import gaussian_blur, resize_to_frames
from assay.harness.network import Network
from assay.harness.seeds import derive_seed
from assay.harness.types import Batch, FramedMaps, ResultRow
from torch import Tensor, nn

from .correlation import spearman
from .perturbation import curves_of
from .subsets import check_subsets, estimate_row, parts

LIKENESSES = ("spearman", "spearman_abs", "ssim")
SIGMA_PX, HALF_PX = 1.5, 5  # SSIM's window: Gaussian, 11 x 11


class Randomised:
    """A copy of a network whose layers are drawn anew, from the output on, one after the other.

    A layer is a module with parameters of its own; the new ones are its initialisation (`reset_parameters`), drawn from
    (seed, layer), whatever was drawn before. Batch-norm's statistics are forgotten with its weights. "From the output
    on" is the order of registration backwards: in torchvision's networks that of the pass.

    Raises:
        ValueError: a module has parameters and does not say how they are initialised.
    """

    def __init__(self, network: Network, seed: int) -> None:
        self.network = network.twin()
        self._learned = network.module.state_dict()
        modules = reversed(list(network.module.named_modules()))
        named = [(name, each) for name, each in modules if next(each.parameters(recurse=False), None) is not None]
        self._drawn = [_drawn_anew(name, module, seed) for name, module in named]

    @property
    def layers(self) -> int:
        """How many there are."""
        return len(self._drawn)

    def from_output_on(self, count: int) -> Network:
        """The network with so many layers drawn anew; the next call changes it."""
        state = dict(self._learned)
        for drawn in self._drawn[:count]:
            state |= drawn
        self.network.module.load_state_dict(state)
        return self.network


def _drawn_anew(name: str, module: nn.Module, seed: int) -> dict[str, Tensor]:
    """What a layer's own parameters and statistics would be before any training, by their names in the network."""
    fresh = copy.deepcopy(module).cpu()
    if not callable(reset := getattr(fresh, "reset_parameters", None)):
        raise ValueError(
            f"layer {name!r} is a {type(module).__name__}, which has parameters and no reset_parameters(): how it is "
            "drawn anew is not known, and this metric cannot be measured on the network"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "randomised layer", name))
        reset()
    prefix = f"{name}." if name else ""
    own = {**dict(fresh.named_parameters(recurse=False)), **dict(fresh.named_buffers(recurse=False))}
    return {prefix + key: value for key, value in own.items()}


@dataclass(frozen=True)
class SanityCheck:
    """Cascading randomisation (Adebayo et al. 2018, Sect. 4): how alike a map stays while the network forgets.

    Layers are drawn anew from the output on, cumulatively; after each stage the same method explains the same class
    with the network as it is then. Spearman's rank correlation of the signed maps and of their absolute values (at the
    method's native resolution, ties share their mean rank), and SSIM (Wang et al. 2004; 11 x 11 Gaussian window, over
    the network's input) of absolute values over their largest. A map that stays alike says nothing of what was learned.

    stages: so many points of equal numbers of layers; null: after each layer.
    seed: of the new parameters, one network for all images. subsets: of `metrics.subsets`.
    """

    stages: int | None = 5
    seed: int = 0
    subsets: Sequence[str] = ("all",)
    VERSION: ClassVar[int] = 1
    PAIRED: ClassVar[tuple[str, ...]] = tuple(f"{name}_random" for name in LIKENESSES)
    SUMMARY_SETTINGS: ClassVar[tuple[str, ...]] = ("subsets",)
    _made: "WeakKeyDictionary[Network, Randomised]" = field(
        default_factory=WeakKeyDictionary, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        check_subsets(self.subsets)
        if self.stages is not None and self.stages < 1:
            raise ValueError(f"stages={self.stages}: at least 1, or null for one after each layer")

    def measure(self, batch: Batch, maps: FramedMaps, forward: ForwardPass) -> dict[str, Tensor]:
        """spearman, spearman_abs, ssim float64 [P,K] after `layers` [P,K]; the last point of each as ..._random [P].

        nan where one of the two maps is constant (ssim: zero); difficult.
        """
        random, before = self._randomised(forward.network), maps.attribution.values
        found, points = [], self.points(random.layers)
        for count in points:
            after = maps.explained(random.from_output_on(count), batch.images).values
            found.append(_likenesses(before, after, batch))
        curves = {name: torch.stack([each[name] for each in found], 1) for name in LIKENESSES}
        layers = torch.tensor(points).expand(len(before), -1)
        last = {f"{name}_random": curve[:, -1] for name, curve in curves.items()}
        return {**curves, **last, "layers": layers, "difficult": batch.difficult}

    def _randomised(self, network: Network) -> Randomised:
        if network not in self._made:
            self._made[network] = Randomised(network, self.seed)
        return self._made[network]

    def points(self, layers: int) -> list[int]:
        """Numbers of layers after each stage."""
        stages = min(self.stages or layers, layers)
        return [round(stage * layers / stages) for stage in range(1, stages + 1)]

    def summarize(self, frame: pd.DataFrame) -> list[ResultRow]:
        """Of each subset: the mean likeness after each stage (x in layers), and when all layers are random."""
        return [row for name, part in parts(frame, self.subsets) for row in self._rows(name, part)]

    def _rows(self, subset: str, part: pd.DataFrame) -> Iterator[ResultRow]:
        variant = f"stages={self.stages or 'all'}"
        xs = part["layers"].iloc[0] if len(part) else []
        for name in LIKENESSES:
            last = stats.mean(part[f"{name}_random"], part["image_id"], (-1.0, 1.0))
            yield estimate_row(last, f"{name}_random", variant, subset, False)
            for x, values in zip(xs, curves_of(part, len(xs), name).T, strict=True):
                mean = stats.mean(values, part["image_id"], (-1.0, 1.0))
                row = estimate_row(mean, name, variant, subset, False, headline=False)
                yield replace(row, x=float(x), x_label="layers randomised")


def _likenesses(before: Tensor, after: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Of maps [P,h,w] with maps [P,h,w]: float64 [P] each."""
    size = torch.tensor(batch.images.shape[2:]).expand(len(before), 2)
    shown = [resize_to_frames(values, size).abs().double() for values in (before, after)]
    return {
        "spearman": spearman(before, after),
        "spearman_abs": spearman(before.abs(), after.abs()),
        "ssim": ssim(*(each / each.amax((1, 2), keepdim=True) for each in shown)),
    }


def ssim(one: Tensor, other: Tensor) -> Tensor:
    """Structural similarity of maps [P,h,w] in [0,1], averaged over the windows that lie inside: float64 [P].

    Raises:
        ValueError: the maps are smaller than a window.
    """
    if min(one.shape[1:]) <= 2 * HALF_PX:
        raise ValueError(f"SSIM's window is {2 * HALF_PX + 1} px, and the network's input {list(one.shape[1:])}")

    def windowed(values: Tensor) -> Tensor:
        return gaussian_blur(values, SIGMA_PX, HALF_PX)[:, HALF_PX:-HALF_PX, HALF_PX:-HALF_PX]

    mean, other_mean, low, high = windowed(one), windowed(other), 0.01**2, 0.03**2
    variances = windowed(one * one) - mean**2 + windowed(other * other) - other_mean**2
    covariance = windowed(one * other) - mean * other_mean
    luminance = (2 * mean * other_mean + low) / (mean**2 + other_mean**2 + low)
    return (luminance * (2 * covariance + high) / (variances + high)).mean((1, 2))
