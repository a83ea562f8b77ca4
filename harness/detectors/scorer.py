"""A detector in memory: fitted, asked, kept in a file and read again; no store, no config of a run."""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..build import build, nodes
from ..config import Choice, Compute, ConfigError
from ..detection import Detector, Features, ImageDetector, State
from ..engine.costs import Outcome
from ..engine.determinism import deterministic
from ..engine.probe import PROBED, is_known, look, probe
from ..engine.processes import Rank
from ..engine.request import Request
from ..engine.samples import check_pixels
from ..forward import ForwardPass
from ..network import Network, fingerprint
from ..store.files import write_atomically
from ..training import joined
from .cells import checked_scores
from .features import PART, features_of, head_of
from .plan import TEST, TRAIN, check_detectors, plan
from .run import pass_over
from .score import fit

KIND = "assay_detector"  # under which the file's metadata say what it is
OURS, METHODS = "assay.", "assay.methods."


@dataclass(frozen=True, eq=False)
class Scorer:
    """A failure detector of one network, with what its fit left; higher scores = more likely a failure, always.

    chosen: its name and settings. state: what the fit left, tensors by name; empty where nothing is fitted.
    compute: threads and images a pass, those of the run that it was fitted in.
    """

    chosen: Choice
    detector: Detector
    network: Network
    state: State
    compute: Compute

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {list(value.shape)}" for name, value in self.state.items())
        return f"<{self.chosen.name} of {type(self.network.module).__name__}, fitted: {sizes or 'nothing'}>"

    @classmethod
    def of(cls, request: Request) -> "Scorer":
        """Fit the request's one detector on its training set, in its store; nothing is fitted where it learns nothing.

        Raises:
            ConfigError: the method is no detector, or it lacks a training set or a layer.
            RuntimeError: the fit failed.
        """
        check_detectors(request.config, request.network, request.methods)
        ((name, detector),) = request.methods.items()
        state = _fitted(request, name) if detector.needs().training else {}
        return cls(request.config.method[name], detector, request.network, state, request.config.compute)

    @deterministic()
    def score(self, images: Tensor) -> Tensor:
        """Scores [N] (floating-point, on the CPU) of images [N,3,H,W] in [0,1], not normalised.

        Computed as a run computes them, `compute.batch_size` images a pass on `compute.threads` threads: in the same
        passes they have the same scores to the bit, in others up to rounding.

        Raises:
            ValueError: another shape, pixels outside [0,1], scores that are not finite.
        """
        check_pixels(images)
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images {list(images.shape)}: give [N,3,H,W]; one image [3,H,W] is image[None]")
        torch.set_num_threads(self.compute.threads)
        self._look(images[:PROBED])
        scores = [self._scores(part) for part in images.split(PART) if len(part)]
        names = [f"image {number}" for number in range(len(images))]
        return checked_scores(self.chosen.name, torch.cat([torch.zeros(0), *scores]), names)

    def _look(self, images: Tensor) -> None:
        """The look that a run takes at its network, the first time."""
        if len(images) and not is_known(self.network):
            name, ids = type(self.network.module).__name__, [f"image {number}" for number in range(len(images))]
            look(self.network, name, images.to(self.network.mean.device), ids, "these images", warnings.warn)

    def _scores(self, images: Tensor) -> Tensor:
        """Of as many images as are scored at once: from their features together, or from each pass."""
        passes = map(self._pass, images.split(self.compute.batch_size))
        if self.detector.needs().images:
            detector = cast(ImageDetector, self.detector)
            made = [detector.score_images(forward, features, self.state) for forward, features in passes]
            return torch.cat(made).detach().cpu()
        return self.detector.score(joined([features.cpu() for _, features in passes]), self.state)

    def _pass(self, images: Tensor) -> tuple[ForwardPass, Features]:
        needs = self.detector.needs()
        pixels = images.to(self.network.mean.device)
        forward = ForwardPass(self.network, pixels, needs.layers, needs.images, penultimate=True)
        return forward, features_of(forward, head_of(forward))

    def save(self, path: str | Path) -> None:
        """Keep the detector: settings and state, in a safetensors file; the network stays where it is.

        Raises:
            ConfigError: the detector is an object of your own: its settings cannot be written without running code.
        """
        if self.chosen.made is not None:
            raise ConfigError(f"{self.chosen}: only detectors chosen by a config's name can be saved; save its `state`")
        about = {
            "name": self.chosen.name,
            "settings": self.chosen.settings,
            "version": self.detector.VERSION,
            "network": _traits(self.network),
        }
        state = {name: value.contiguous() for name, value in self.state.items()}
        write_atomically(Path(path), save(state, {KIND: json.dumps(about)}))

    @classmethod
    def load(cls, path: str | Path, network: Network, compute: Compute | None = None) -> "Scorer":
        """Read what `save` kept, for the network that it was fitted on.

        Raises:
            ConfigError: no such file, another kind of file, another network, another version of the detector.
        """
        about, state = _read(Path(path))
        chosen = Choice("method", about["name"], about["settings"], key=f"method.{about['name']}")
        _check_same(about["network"], _traits(network), f"{path}: {chosen} was fitted on another network")
        _check_targets(chosen, path)
        detector: Detector = build(chosen)
        version = {"version": detector.VERSION}
        _check_same({"version": about["version"]}, version, f"{path}: {chosen} was fitted by other code")
        return cls(chosen, detector, network, state, compute or Compute())


def _fitted(request: Request, name: str) -> State:
    """What the fit of the one detector leaves."""
    detection, outcome = plan(request), Outcome(batch_size=request.config.compute.batch_size)
    assert detection.training is not None  # or a check has failed
    probe(request, detection.training.images, say=warnings.warn)
    pass_over(detection, TRAIN, [name], Rank(0, 1))
    fit(detection, [name], outcome)
    if name in outcome.failures:
        raise RuntimeError(f"{name} could not be fitted: {outcome.failures[name]}")
    kept = detection.sets[TEST].cells[name].fit
    assert kept is not None
    return kept.read()


def _traits(network: Network) -> dict[str, Any]:
    """All of a network that scores depend on."""
    mean, std = network.statistics
    groups = None if network.groups is None else [list(group) for group in network.groups]
    return {
        "weights": network.fingerprint or fingerprint(network.module.state_dict()),
        "mean": mean,
        "std": std,
        "outputs": network.reads,
        "groups": groups,
        "precision": str(network.mean.dtype),
    }


def _check_same(kept: dict[str, Any], ours: dict[str, Any], what: str) -> None:
    for trait, value in ours.items():
        if kept.get(trait) != value:
            raise ConfigError(f"{what}: {trait} {kept.get(trait)} in the file, {value} here; fit it anew")


def _check_targets(chosen: Choice, path: str | Path) -> None:
    """A file may name methods of ours, and what --allow-target allows; neither networks to load nor data to fetch."""
    for node in nodes(chosen.settings):
        target = str(node["_target_"])
        if target.startswith(OURS) and not target.startswith(METHODS):
            raise ConfigError(f"{path}: {chosen} names {target}, which is no method: nothing of it was built")


def _read(path: Path) -> tuple[dict[str, Any], State]:
    """What a file says of its detector, and the detector's state."""
    if not path.is_file():
        raise ConfigError(f"no file {path}: write one with detector.save(path)")
    try:
        with safe_open(path, "pt") as file:
            about = (file.metadata() or {}).get(KIND)
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    except SafetensorError as error:
        raise ConfigError(f"{path} is no safetensors file ({error}): write one with detector.save(path)") from error
    if about is None:
        raise ConfigError(f"{path} holds no detector of Assay: write one with detector.save(path)")
    return json.loads(about), state
