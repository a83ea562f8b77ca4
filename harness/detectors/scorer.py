"""A detector in memory: fitted, asked, kept in a file and read again; no store, no config of a run."""

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..build import build, nodes
from ..config import Choice, Compute, ConfigError
from ..detection import Detector, Features, ImageDetector, Reading, State
from ..engine.costs import Outcome, merge
from ..engine.determinism import deterministic
from ..engine.memory import together
from ..engine.probe import PROBED, is_known, look, probe
from ..engine.rank import Rank
from ..engine.request import Request
from ..engine.samples import check_pixels
from ..forward import ForwardPass
from ..modules import fingerprint
from ..network import Network
from ..store.files import write_atomically
from ..store.identity import nested_versions
from ..training import joined
from .cells import checked_scores
from .checks import check_detectors
from .features import PART, features_of, head_of
from .plan import TEST, TRAIN, plan
from .readings import KeptReading, Reader, described, title_of
from .run import pass_over, prepare_missing
from .score import fit

KIND = "assay_detector"  # under which the file's metadata say what it is
OURS, METHODS = "assay.", "assay.methods."
PARTS = frozenset({"assay.harness.networks.members.OtherWeights"})  # of methods of ours, without being one


@dataclass(frozen=True, eq=False)
class Scorer:
    """A failure detector of one network, with what its fit left; higher scores = more likely a failure, always.

    chosen: its name and settings. state: what the fit left, tensors by name; empty where nothing is fitted.
    readers: what it reads of an image beside features. compute: threads and images a pass, those of the run that it was
    fitted in.
    """

    chosen: Choice
    detector: Detector
    network: Network
    state: State
    readers: Mapping[Reading, Reader]
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
        needs = detector.needs()
        if needs.training or any(each.needs().prepared_on for each in needs.readings):
            state, readers = _fitted(request, name)
        else:  # no data is read
            state, readers = {}, {each: KeptReading.of(each, request, {}).reader for each in needs.readings}
        return cls(request.config.method[name], detector, request.network, state, readers, request.config.compute)

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
        size = together(self.compute.batch_size, self.network, images[0]).images
        passes = map(self._pass, images.split(size))
        if self.detector.needs().images:
            detector = cast(ImageDetector, self.detector)
            made = [detector.score_images(forward, features, self.state) for forward, features in passes]
            return torch.cat(made).detach().cpu()
        return self.detector.score(joined([features.cpu() for _, features in passes]), self.state)

    def _pass(self, images: Tensor) -> tuple[ForwardPass, Features]:
        needs, pixels = self.detector.needs(), images.to(self.network.mean.device)
        asked = [reading.needs().of_pass for reading in self.readers]
        layers = tuple(sorted({*needs.layers, *(layer for each in asked for layer in each.layers)}))
        graph = needs.images or any(each.input_graph for each in asked)
        penultimate = needs.penultimate or any(each.penultimate for each in asked)
        forward = ForwardPass(self.network, pixels, layers, graph, penultimate=penultimate)
        read = {reading: reader.read(forward, _Pixels(images)) for reading, reader in self.readers.items()}
        return forward, replace(features_of(forward, head_of(forward), needs.layers), readings=read)

    def save(self, path: str | Path) -> None:
        """Keep the detector: settings and state, in a safetensors file; the network stays where it is.

        Raises:
            ConfigError: the detector is an object of your own: its settings cannot be written without running code; or
                it has a network of its own (a cascade), which no file may load.
        """
        if self.chosen.made is not None:
            raise ConfigError(f"{self.chosen}: only detectors chosen by a config's name can be saved; save its `state`")
        if (target := _stranger(self.chosen)) is not None:
            raise ConfigError(
                f"{self.chosen} cannot be saved: it names {target}, and no file may load networks or data, so that it "
                "could not be read again: fit it anew from its config (assay.fit), or save a detector without it"
            )
        about = {
            "name": self.chosen.name,
            "settings": self.chosen.settings,
            "version": self.detector.VERSION,
            **nested_versions(self.detector),
            "network": _traits(self.network),
            "readings": [[reader.title, reader.reading.VERSION, reader.seed] for reader in self.readers.values()],
        }
        states = [self.state, *(reader.state for reader in self.readers.values())]
        tensors = {name: value.contiguous() for name, value in _numbered(states).items()}
        write_atomically(Path(path), save(tensors, {KIND: json.dumps(about)}))

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
        readings, kept = detector.needs().readings, about.get("readings", [])
        ours = [[title_of(described(each, network)), each.VERSION] for each in readings]
        read = {"version": about["version"], "readings": [each[:2] for each in kept]}
        read["versions of its parts"] = about.get("versions", {})
        version = {"version": detector.VERSION, "readings": ours}
        version["versions of its parts"] = nested_versions(detector).get("versions", {})
        _check_same(read, version, f"{path}: {chosen} was fitted by other code")
        own, *states = _apart(state, len(readings))
        readers = {
            reading: Reader(reading, title, seed, left)
            for reading, (title, _, seed), left in zip(readings, kept, states, strict=True)
        }
        return cls(chosen, detector, network, own, readers, compute or Compute())


def _fitted(request: Request, name: str) -> tuple[State, dict[Reading, Reader]]:
    """What the fit of the one detector leaves, and its readings, prepared."""
    detection, outcome = plan(request), Outcome(batch_size=request.config.compute.batch_size)
    rank = Rank.alone(request.config.compute)
    probe(request, *detection.labelled()[-1:], say=warnings.warn)
    outcome = merge([outcome, *prepare_missing(detection, rank)])
    kept = detection.sets[TEST].cells[name].fit
    if kept is not None and not outcome.failures:
        pass_over(detection, TRAIN, [name], rank)
        fit(detection, [name], outcome)
    if outcome.failures:
        raise RuntimeError(f"{name} could not be fitted: {'; '.join(outcome.failures.values())}")
    readers = {reading: each.reader for reading, each in detection.readings.items()}
    return ({} if kept is None else kept.read()), readers


class _Pixels:
    """Images [n,3,H,W] named by what is in them: what is drawn for one does not depend on the others."""

    def __init__(self, images: Tensor) -> None:
        every = images.float().cpu().contiguous().numpy()
        self.image_ids = [hashlib.sha256(image.tobytes()).hexdigest() for image in every]
        self.sample_ids: list[str] = []


def _numbered(states: Sequence[State]) -> State:
    """Several states as one: the first under its own names, the others with their number (`1/mean`)."""
    rest = {f"{number}/{name}": value for number, each in enumerate(states) if number for name, value in each.items()}
    return states[0] | rest


def _apart(state: State, readings: int) -> list[State]:
    """The inverse of `_numbered`, of one state and those of so many readings."""
    parts: list[State] = [{} for _ in range(readings + 1)]
    for name, value in state.items():
        number, slash, rest = name.partition("/")
        own = not slash or not number.isdigit()
        parts[0 if own else int(number)][name if own else rest] = value
    return parts


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
    """Raise ConfigError for a file that names what none may, before anything of it is built."""
    if (target := _stranger(chosen)) is not None:
        raise ConfigError(f"{path}: {chosen} names {target}, which is no method: nothing of it was built")


def _stranger(chosen: Choice) -> str | None:
    """What no file may name, if the settings do: it may name methods of ours with their parts, and what --allow-target
    allows; neither networks to load nor data to fetch."""
    targets = (str(node["_target_"]) for node in nodes(chosen.settings))
    ours = (each for each in targets if each.startswith(OURS))
    return next((each for each in ours if not each.startswith(METHODS) and each not in PARTS), None)


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
