"""What is asked for, built: the network on its device, methods and metrics by name, and images in their order."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..build import build
from ..config import Choice, ConfigError, RunConfig
from ..network import Network
from ..store import identity
from ..values import IN_PATHS, check_name
from .finite import check_weights
from .memory import AUTO, together
from .placing import placed
from .samples import Checked

LISTED = 20  # left-out files in a caution
LOOKED_AT = 32  # images of a part of a data set, to see whether they are all of one class


def pick_device(name: str) -> torch.device:
    """`auto` is the GPU if there is one; under torchrun the one of the process' local rank."""
    if name in ("auto", "cuda") and torch.cuda.is_available():
        local = os.environ.get("LOCAL_RANK")
        return torch.device("cuda" if local is None else f"cuda:{int(local) % torch.cuda.device_count()}")
    if name == "auto":
        return torch.device("cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"compute.device={name}: torch {torch.__version__} sees no GPU; use compute.device=cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"compute.device={name}: choose auto, cpu, cuda or cuda:N") from error


def image_order(count: int, seed: int | None) -> np.ndarray:
    """Dataset index of each position: the data set's own order, or a seeded permutation."""
    return np.arange(count) if seed is None else np.random.default_rng(seed).permutation(count)


def build_all(choices: dict[str, Choice]) -> dict[str, Any]:
    """The objects of a group's choices, by name."""
    return {name: build(choice) for name, choice in choices.items()}


@dataclass(frozen=True, eq=False)
class Request:
    """A run's config with what it names, built; reading weights is all that building does.

    root: of the store. methods: attributors or detectors. metrics: likewise of either kind. notes: what was decided.
    """

    config: RunConfig
    root: Path
    network: Network
    device: torch.device
    methods: dict[str, Any]
    metrics: dict[str, Any]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: RunConfig, root: Path, methods: dict[str, Any] | None = None) -> "Request":
        """Build what the config names; `methods`, if they are built already."""
        device = pick_device(config.compute.device)
        methods = build_all(config.method) if methods is None else methods
        network = _reading(config.model, build(config.model))
        check_weights(network.module, config.model.name)
        network.to(device, getattr(torch, config.precision), _memory_format(config, network))
        chosen = placed(config, network)
        changed = {name: choice for name, choice in chosen.method.items() if choice is not config.method[name]}
        return cls(chosen, root, network, device, methods | build_all(changed), build_all(chosen.metric))

    def settled(self, images: "Images") -> "Request":
        """The request with a number for `compute.batch_size=auto`, by the first of the images."""
        asked = self.config.compute.batch_size
        if asked != AUTO:
            return self
        found = together(asked, self.network, images.dataset[int(images.order[0])].image)
        compute = replace(self.config.compute, batch_size=found.images)
        return replace(self, config=replace(self.config, compute=compute), notes=(*self.notes, found.why))

    def labels(self, dataset: str, method: str, protocol: str, kind: str) -> dict[str, Any]:
        """The names under which tables show a cell."""
        settings = self.config.model.settings
        inner = settings.get("network", settings)  # class groups wrap a network
        stem = Path(str(inner.get("weights") or "random")).stem
        return {
            "model": self.config.model.name,
            "weights": f"{stem}@{self.network.fingerprint[:8]}",
            "dataset": dataset,
            "protocol": protocol,
            "method": method,
            "kind": kind,
            "seed": self.config.seed,
            "precision": self.config.precision,
        }


def _memory_format(config: RunConfig, network: Network) -> torch.memory_format | None:
    """The layout of `compute.memory_format`; None for `auto`."""
    asked = config.compute.memory_format
    if asked == "channels_last" and all(each.ndim != 4 for each in network.module.parameters()):
        raise ConfigError(
            f"compute.memory_format=channels_last: model {config.model.name} has no convolution on images (no weight "
            "of four dimensions), so that nothing would be in another layout: leave it out"
        )
    known = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    return known.get(asked)


def _reading(chosen: Choice, network: Network) -> Network:
    """The network, reading the `output` that its config names; numbers of another output are another network's."""
    if (output := chosen.notes.get("output")) is None:
        return network
    mean, std = network.statistics
    digest = f"{network.fingerprint}[{output}]"
    made = (network.module, mean, std, network.activation, digest, network.groups, network.input_size)
    read = Network(*made, output=output)
    read.notes += network.notes
    read.places, read.classes = network.places, network.classes
    return read


def shown_names(labels: dict[str, Any]) -> dict[str, str]:
    """Those of the labels that are part of a cell's identity."""
    return {part: labels[part] for part in ("model", "dataset", "protocol", "method")}


@dataclass(frozen=True, eq=False)
class Images:
    """Images of a run: the first `stop` of a data set in an order, and their identity under the run's network."""

    name: str
    dataset: Checked
    order: np.ndarray  # dataset index of each position
    stop: int
    identity: dict[str, Any]

    @classmethod
    def of(cls, request: Request, chosen: Choice, seed: int | None) -> "Images":
        """Build a data set; seed: of the order of its images, None for its own.

        Raises:
            ConfigError: it has no samples.
        """
        dataset = Checked(chosen.name, build(chosen))
        if len(dataset) == 0:
            raise ConfigError(f"{chosen} has no samples")
        check_name(f"the split of {chosen}", dataset.split, IN_PATHS)
        about = identity.data_identity(
            model=request.config.model.settings,
            weights=request.network.fingerprint,
            dataset=chosen.settings,
            data=dataset.fingerprint(),
            order=seed,
            precision=request.config.precision,
        )
        stop = min(len(dataset), chosen.limit or len(dataset))
        return cls(chosen.name, dataset, image_order(len(dataset), seed), stop, about)

    @property
    def borders(self) -> Sequence[int]:
        """Positions that no shard reaches across: where the data set's files begin, unless its order is drawn."""
        return self.dataset.borders if self.identity["dataset"]["order"] is None else ()

    @property
    def split(self) -> str:
        """Which images, in slice notation: `test`, `test[:200]`, `test[:200]@seed3`."""
        seed = self.identity["dataset"]["order"]
        part = "" if self.stop == len(self.dataset) else f"[:{self.stop}]"
        return f"{self.dataset.split}{part}" + ("" if seed is None else f"@seed{seed}")

    @property
    def title(self) -> str:
        """Its name, with the split if that is a part."""
        return self.name if self.split == self.dataset.split else f"{self.name} {self.split}"

    def cautions(self, network: Network) -> list[str]:
        """What is odd about these images: files left out, a size that the network does not know, one class."""
        said = (f"{self.name}: {remark}" for remark in self.dataset.remarks)
        return [*self._skipped(), *said, *self._of_another_size(network), *self._of_one_class()]

    def _skipped(self) -> Iterator[str]:
        """The files that `unreadable=skip` left out; their number is in the split."""
        if skipped := self.dataset.skipped:
            more = f"; and {len(skipped) - LISTED} more" if len(skipped) > LISTED else ""
            yield f"{self.name}: {len(skipped)} images left out (unreadable=skip): {'; '.join(skipped[:LISTED])}{more}"

    def _of_another_size(self, network: Network) -> Iterator[str]:
        wanted = network.input_size
        found = tuple(self.dataset[int(self.order[0])].image.shape[-2:]) if wanted else None
        if found != wanted:
            yield (
                f"{self.name}: images of {found} pixels; the network's weights were made for {wanted} (height, width)"
            )

    def _of_one_class(self) -> Iterator[str]:
        """A part of a data set whose images, as many as are looked at, are of one class: files are often sorted so."""
        if not 1 < self.stop < len(self.dataset) or len(self.dataset.classes) < 2:
            return
        looked = np.unique(np.linspace(0, self.stop - 1, LOOKED_AT).astype(int))
        with suppress(ValueError, OSError):  # what cannot be read is the loop's to name
            first = self.dataset[int(self.order[0])].targets
            # from the last one on: in sorted files that is where another class would be
            if len(first) == 1 and all(self.dataset[int(i)].targets == first for i in self.order[looked[::-1]]):
                yield (
                    f"{self.name} {self.split}: all {len(looked)} images that were looked at are of one class, "
                    f"{self.dataset.classes[first[0]]}, of {len(self.dataset.classes)}: a data set sorted by class? "
                    "subset_seed=0 draws from all of it"
                )
