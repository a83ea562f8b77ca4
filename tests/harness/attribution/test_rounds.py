"""Classes that few images of a batch still ask for: fewer passes, the same maps, draws and order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from assay.harness.attribution import rounds
from assay.harness.forward import ForwardPass
from assay.harness.heads import Passes, Targets
from assay.harness.network import Network
from assay.harness.seeds import SampleRng
from assay.harness.types import Attribution, Attributor, Batch, Needs, Sample
from assay.methods.attribution.attention import GenericAttention, TransformerAttribution
from assay.methods.attribution.deeplift import DeepLIFT
from assay.methods.attribution.fullgrad import FullGrad
from assay.methods.attribution.gradient import Gradient, SmoothGrad
from assay.methods.attribution.guided import GuidedBackprop
from assay.methods.attribution.relevance.agf import AGF
from assay.methods.attribution.relevance.excitation import ExcitationBackprop
from assay.methods.attribution.relevance.hedge import GradientHedge
from assay.methods.attribution.relevance.lrp import LRP, ContrastiveLRP
from assay.methods.attribution.relevance.rap import RAP
from assay.methods.attribution.relevance.rsp import RSP
from assay.methods.attribution.relevance.rules import AlphaBeta
from conftest import TinyResNet
from transformer_toys import tiny_transformer

CLASSES = (1, 4, 0, 1, 2, 1)  # of each image: rounds hold 5, 2, 1, 1 of six images; a third is 2


def batch_of(classes: Sequence[int] = CLASSES, dtype: torch.dtype = torch.float64) -> Batch:
    """Images of noise with so many classes each."""
    images = torch.rand(len(classes), 3, 16, 16, dtype=dtype)
    return Batch.of([Sample(f"i{n}", images[n], tuple(range(count)), (16, 16)) for n, count in enumerate(classes)])


def network() -> Network:
    """Two bottlenecks of random weights in float64."""
    return Network(TinyResNet().eval(), (0.5,) * 3, (0.25,) * 3).to(dtype=torch.float64)


def explained(method: Attributor, net: Network, batch: Batch) -> Attribution:
    needs = method.needs()
    forward = ForwardPass(net, batch.images, needs.layers, needs.input_graph)
    return rounds.attribute(method, needs, forward, batch.targets, batch, 0, "test")


def test_pairs_are_split_by_hand() -> None:
    """Image 1's third and fourth class are in rounds of one of six images; a round of a third is walked as it is."""
    shared, rest = rounds.split(batch_of().targets, 6)
    assert (shared.tolist(), rest.tolist()) == ([0, 1, 2, 5, 6, 7, 8], [3, 4])
    shared, rest = rounds.split(batch_of((3, 0, 0, 0, 0)).targets, 5)  # the first round holds one of five
    assert (shared.tolist(), rest.tolist()) == ([0], [1, 2])
    shared, rest = rounds.split(Targets.of([], torch.device("cpu")), 4)
    assert (len(shared), len(rest)) == (0, 0)


METHODS: dict[str, Attributor] = {
    "gradient": Gradient(),
    "smoothgrad": SmoothGrad(samples=2),
    "guided": GuidedBackprop(),
    "deeplift": DeepLIFT(),
    "fullgrad": FullGrad(),
    "lrp": LRP(AlphaBeta()),
    "contrastive_lrp": ContrastiveLRP(LRP(AlphaBeta())),
    "rap": RAP(),
    "agf": AGF(),
    "rsp": RSP("layer1"),
    "hedge": GradientHedge("layer1"),
    "excitation": ExcitationBackprop(),
    "generic_attention": GenericAttention(),
    "transformer_attribution": TransformerAttribution(),
}


@pytest.mark.parametrize("name", METHODS)
def test_maps_are_those_of_whole_rounds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pair's map, in float64 to 1e-10 of its size: sums of other batches are made in another order."""
    method = METHODS[name]
    net = tiny_transformer().to(dtype=torch.float64) if "attention" in name or "transformer" in name else network()
    batch = batch_of()
    found = explained(method, net, batch).values
    fewer, net.passes = net.passes, Passes()
    monkeypatch.setattr(rounds, "SHARE", 0.0)
    whole = explained(method, net, batch).values
    size = whole.abs().amax((1, 2), keepdim=True)
    assert found.shape == whole.shape and (size > 0).all()
    assert ((found - whole).abs() <= 1e-10 * size).all()
    assert method.needs().by_rounds and fewer.backward + fewer.head < net.passes.backward + net.passes.head


def test_passes_are_those_of_the_images_that_are_asked_for() -> None:
    """Two rounds of six images, and two rows forward and back: not four rounds of six."""
    net = network()
    explained(Gradient(), net, batch_of())
    assert net.passes == Passes(forward=6 + 2, backward=12 + 2)
    net.passes = Passes()
    explained(Gradient(), net, batch_of((1, 5)))  # rounds of one of two images are worth a pass of both
    assert net.passes == Passes(forward=2, backward=10)


@dataclass(frozen=True)
class Told:
    """A method whose maps are what it is given: two draws, the class, the image's mean, how many pairs it was asked."""

    by_rounds: bool = True
    VERSION: ClassVar[int] = 1

    def needs(self) -> Needs:
        return Needs(by_rounds=self.by_rounds)

    def attribute(self, forward: ForwardPass, targets: Targets, rng: SampleRng) -> Attribution:
        image, label = targets
        each = [
            rng.uniform((1,), "pair")[:, 0],
            rng.uniform((1,), "image")[image, 0],
            label.float(),
            forward.images.mean((1, 2, 3))[image],
            torch.full(image.shape, len(image), dtype=torch.float32),
        ]
        made = torch.stack(each, 1)
        return Attribution(made[:, None], coefficients=made, layer="last")


def test_names_draws_and_order_are_each_pairs_own() -> None:
    """An image of many classes in parts of a batch: exactly what a method that is asked once for all is given."""
    batch = batch_of((9, 1, 0, 2), torch.float32)  # rounds of 3, 2 and seven of 1 of four images: 7 rows, 4 at a time
    found, whole = (explained(Told(each), network().to(dtype=torch.float32), batch) for each in (True, False))
    assert torch.equal(found.values[..., :4], whole.values[..., :4])
    assert found.coefficients is not None and torch.equal(found.coefficients, found.values[:, 0])
    assert found.layer == "last"
    assert found.values[:, 0, 4].tolist() == [5, 5, 4, 4, 4, 4, 3, 3, 3, 5, 5, 5]
    assert whole.values[:, 0, 4].tolist() == [12] * 12
