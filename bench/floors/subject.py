"""A network of random weights with images of noise on a device, the methods as the engine calls them, bare passes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.network import Network
from assay.harness.networks.loading import torchvision_network
from assay.harness.seeds import SampleRng
from assay.harness.types import Attributor, Batch, Sample
from torch import Tensor, nn

from bench.timing import CPU

Runs = dict[str, Callable[[], object]]  # contestants of one race by name, the floor first
BATCH = 8  # images of a race
ROWS = 32  # images that a method may send through the network at once


def random_batch(count: int, side: int, device: torch.device = CPU) -> Batch:
    """Images of noise; number n is explained as class n."""
    torch.manual_seed(0)
    samples = [Sample(str(n), torch.rand(3, side, side), (n,), (side, side)) for n in range(count)]
    return Batch.of(samples, device)


def untouched(architecture: str) -> nn.Module:
    """The same weights without our wrapper, in-place ReLUs and all."""
    from torchvision import models

    module: nn.Module = models.get_model(architecture, weights=None)
    module.load_state_dict(torchvision_network(architecture, weights=None).module.state_dict())
    return module.eval().requires_grad_(False)


def no_inplace(architecture: str) -> nn.Module:
    """The same without in-place ReLUs, which hooks of Captum and Zennit do not bear."""
    module = untouched(architecture)
    for layer in module.modules():
        if isinstance(layer, nn.ReLU):
            layer.inplace = False
    return module


@dataclass(frozen=True, eq=False)
class Subject:
    """A torchvision network, the images that are explained, and the layer at which methods that need one look."""

    architecture: str
    network: Network
    batch: Batch
    layer: str
    max_rows: int

    @classmethod
    def of(
        cls,
        architecture: str,
        layer: str,
        count: int,
        side: int = 224,
        max_rows: int = ROWS,
        device: torch.device = CPU,
    ) -> "Subject":
        """Seeded random weights and images."""
        network = torchvision_network(architecture, weights=None).to(device)
        return cls(architecture, network, random_batch(count, side, device), layer, max_rows)

    @property
    def images(self) -> Tensor:
        """[B,3,H,W] in [0,1]."""
        return self.batch.images

    @property
    def targets(self) -> Targets:
        """One an image."""
        return self.batch.targets

    @cached_property
    def inputs(self) -> Tensor:
        """Normalised images."""
        return self.network.normalise(self.images)

    @cached_property
    def bare(self) -> nn.Module:
        """The network without our wrapper."""
        return untouched(self.architecture).to(self.images.device)

    def forward(self) -> ForwardPass:
        """A new forward pass that keeps the layer."""
        return ForwardPass(self.network, self.images, (self.layer,), max_rows=self.max_rows)

    def ours(self, method: Attributor) -> Callable[[], Tensor]:
        """A method of this project with the forward pass that it needs: images to maps.

        Not the pass that a run shares among all methods and metrics (logits, pairs): a method that makes its own, as
        those of relevance do, would be charged two.
        """
        need, rng = method.needs(), SampleRng.of(0, "bench", self.batch)

        def run() -> Tensor:
            forward = ForwardPass(
                self.network, self.images, need.layers, need.input_graph, self.max_rows, need.penultimate
            )
            return method.attribute(forward, self.targets, rng).values

        return run

    def passes(self, repeats: int = 1) -> Callable[[], None]:
        """So many forward and backward passes to the input, one after another."""
        inputs, labels, module = self.inputs, self.targets.label[:, None], self.bare

        def run() -> None:
            for _ in range(repeats):
                leaf = inputs.clone().requires_grad_()
                torch.autograd.grad(module(leaf).gather(1, labels).sum(), leaf)

        return run

    def heads(self, heads: int = 0, backwards: int = 0, forwards: int = 0) -> Callable[[], None]:
        """One forward pass, and so many more of each kind an image: of the head, back through it, of the network."""

        def run() -> None:
            forward = self.forward()
            activation, head = forward.activation(self.layer), forward.head(self.layer)
            rows = torch.arange(max(heads, forwards) * len(activation), device=activation.device) % len(activation)
            with torch.no_grad():
                for part in rows[: heads * len(activation)].split(self.max_rows):
                    head(activation[part])
                for part in rows[: forwards * len(activation)].split(self.max_rows):
                    self.network.module(forward.inputs[part])
            for _ in range(backwards):
                head.gradient(activation, self.targets)

        return run
