"""A detector in memory: fitted, asked, kept in a file and read again; no store, no config of a run."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ..build import build
from ..config import Choice, ConfigError
from ..detection import Detector, ImageDetector, LinearHead, State
from ..engine.costs import Outcome
from ..engine.processes import Rank
from ..engine.request import Request
from ..forward import ForwardPass
from ..network import Network
from ..store.files import write_atomically
from .cells import checked_scores
from .features import features_of, linear_head
from .plan import TEST, TRAIN, Detection
from .run import pass_over
from .score import fit

KIND = "assay detector"  # in the file's metadata
BATCH = 64


@dataclass(frozen=True, eq=False)
class Scorer:
    """A failure detector of one network, with what its fit left; higher scores = more likely a failure, always."""

    chosen: Choice
    detector: Detector
    network: Network
    state: State

    @classmethod
    def of(cls, request: Request, detection: Detection) -> "Scorer":
        """Fit the request's one detector on the detection's training set; without one nothing is fitted.

        Raises:
            RuntimeError: the fit failed.
        """
        ((name, chosen),) = request.config.method.items()
        kept, state = detection.sets[TEST].cells[name].fit, State()
        if kept is not None:
            pass_over(detection, TRAIN, [name], Rank(0, 1))
            outcome = Outcome(batch_size=request.config.compute.batch_size)
            fit(detection, [name], outcome)
            if name in outcome.failures:
                raise RuntimeError(f"{name} could not be fitted: {outcome.failures[name]}")
            state = kept.read()
        return cls(chosen, request.methods[name], request.network, state)

    def score(self, images: Tensor) -> Tensor:
        """Scores [N] (float, on the CPU) of images [N,3,H,W] in [0,1], not normalised."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images {list(images.shape)}: give [N,3,H,W]; one image [3,H,W] is image[None]")
        if not len(images):
            return torch.zeros(0)
        inputs = images.to(self.network.mean.device)
        head = linear_head(self.network, inputs[0])
        scores = torch.cat([self._scores(part, head) for part in inputs.split(BATCH)])
        return checked_scores(self.chosen.name, scores, len(images))

    def _scores(self, images: Tensor, head: LinearHead | None) -> Tensor:
        needs = self.detector.needs()
        forward = ForwardPass(self.network, images, needs.layers, needs.images, penultimate=head is not None)
        features = features_of(forward, head)
        if needs.images:
            return cast(ImageDetector, self.detector).score_images(forward, features, self.state).detach().cpu()
        return self.detector.score(features.cpu(), self.state)

    def save(self, path: str | Path) -> None:
        """Keep the detector: settings and state, in a safetensors file; the network stays where it is.

        Raises:
            ConfigError: the detector is an object of your own: its settings cannot be written without running code.
        """
        if self.chosen.made is not None:
            raise ConfigError(f"{self.chosen}: only detectors chosen by a config's name can be saved; save its `state`")
        about = {
            "kind": KIND,
            "name": self.chosen.name,
            "settings": json.dumps(self.chosen.settings),
            "version": str(self.detector.VERSION),
            "network": self.network.fingerprint,
        }
        write_atomically(Path(path), save({name: value.contiguous() for name, value in self.state.items()}, about))

    @classmethod
    def load(cls, path: str | Path, network: Network) -> "Scorer":
        """Read what `save` kept, for the network that it was fitted on.

        Raises:
            ConfigError: no such file, another kind of file, another network, another version of the detector.
        """
        about, state = _read(Path(path))
        chosen = Choice("method", about["name"], json.loads(about["settings"]))
        detector: Detector = build(chosen)
        for what, kept, ours in (
            ("network", about["network"], network.fingerprint),
            ("version", about["version"], str(detector.VERSION)),
        ):
            if kept != ours:
                raise ConfigError(f"{path}: {chosen.name} is of another {what} ({kept}; this is {ours}): fit anew")
        return cls(chosen, detector, network, state)


def _read(path: Path) -> tuple[dict[str, str], State]:
    if not path.is_file():
        raise ConfigError(f"no file {path}: write one with detector.save(path)")
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    except Exception as error:
        raise ConfigError(f"{path} is no safetensors file ({error}): write one with detector.save(path)") from error
    if about.get("kind") != KIND:
        raise ConfigError(f"{path} holds no detector of Assay: write one with detector.save(path)")
    return about, state
