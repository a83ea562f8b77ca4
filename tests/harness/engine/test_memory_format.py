"""Convolutions in another memory layout: the same maps to rounding, or refused by name."""

from pathlib import Path

import pytest
import torch
from assay.harness.attribution.cell import AttributionCell
from assay.harness.attribution.fitted import fit_missing
from assay.harness.attribution.plan import build_job
from assay.harness.config import ConfigError
from assay.harness.engine import request
from assay.harness.engine.measure import share
from assay.harness.engine.probe import look
from assay.harness.engine.rank import Rank
from assay.harness.network import Network
from assay.harness.overrides import compose_config
from torch import Tensor, nn

from assay.api import explain

HERE = ["limit=2", "train.limit=4", "compute.device=cpu", "metric=[pointing_game]"]
STATISTICS = ([0.0] * 3, [1.0] * 3)
ROUNDING = 1e-4  # relative L2 of a map in float32; 1.6e-5 is the most that was seen, of lrp_alpha2beta1's
NEAR_ZERO = {"lrp_epsilon": 1e-3}  # divides by sums that nearly cancel: 1.5e-4 on an AMD EPYC


def maps_of(folder: Path, *overrides: str) -> dict[str, Tensor]:
    """The maps of two scenes, by method; none may fail."""
    job = build_job(compose_config([*HERE, f"results={folder}", *overrides]), folder / "store")
    fit_missing(job, Rank(0, 1))
    samples = [job.images.dataset[int(index)] for index in job.images.order[:2]]
    batch, forward = share(job, samples, job.cells, 4)
    return {cell.name: cell.attribute(batch, forward).values for cell in job.cells if isinstance(cell, AttributionCell)}


def _agree(folder: Path, *overrides: str) -> None:
    one = maps_of(folder / "one", *overrides)
    other = maps_of(folder / "other", *overrides, "compute.memory_format=channels_last")
    far = {name: float((one[name] - other[name]).norm() / one[name].norm()) for name in one}
    assert all(size <= NEAR_ZERO.get(name, ROUNDING) for name, size in far.items()), far
    assert max(far.values()) > 0  # the kernels are others


def test_maps_are_equal_to_rounding(tmp_path: Path) -> None:
    """A gradient, masks, two families of rules, on the network with batch-norms and shortcuts."""
    chosen = "gradient,scorecam,lrp_epsilon,agf"
    _agree(tmp_path, "model=scenes_resnet", f"method=[{chosen}]")


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["ci_resnet", "ci_embedded"])
def test_maps_of_every_method_are_equal_to_rounding(experiment: str, tmp_path: Path) -> None:
    _agree(tmp_path, f"experiment={experiment}")


def test_the_three_choices() -> None:
    """How weights lie, and what `infer` gives the module on the CPU."""
    seen = list[bool]()

    class Toy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.is_contiguous(memory_format=torch.channels_last))
            return self.layer(x).mean((2, 3))

    config, found = compose_config(["method=[center]", "metric=[pointing_game]"]), {}
    for asked in ("auto", "contiguous", "channels_last"):
        config.compute.memory_format = asked
        network = Network(Toy(), *STATISTICS)
        network.to("cpu", torch.float32, request._memory_format(config, network))
        network.infer(torch.rand(2, 3, 5, 5))
        weight = network.module.get_parameter("layer.weight")
        found[asked] = (weight.is_contiguous(memory_format=torch.channels_last), seen.pop())
    assert found == {"auto": (False, True), "contiguous": (False, False), "channels_last": (True, True)}


class Flat(nn.Module):
    """Without a convolution, or with one and a `view`."""

    def __init__(self, has_layer: bool) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1) if has_layer else nn.Identity()
        self.last = nn.Linear(75, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(x).view(len(x), -1))


def test_a_network_without_convolutions_is_refused() -> None:
    words = ["method=[center]", "metric=[pointing_game]", "compute.memory_format=channels_last"]
    with pytest.raises(ConfigError, match=r"channels_last: model scenes_vgg has no convolution on images .*: leave it"):
        request._memory_format(compose_config(words), Network(Flat(False), *STATISTICS))


def test_a_network_that_flattens_by_view_is_refused() -> None:
    """By name, with the mend; in the usual layout it runs."""
    network, pixels = Network(Flat(True), *STATISTICS), torch.rand(2, 3, 5, 5)
    assert look(network, "flat", pixels, ["a", "b"], "toys") == 4
    network.to(memory_format=torch.channels_last)
    with pytest.raises(ConfigError, match=r"model flat flattens by `view`.*leave compute.memory_format out, or write"):
        look(network, "flat", pixels, ["a", "b"], "toys")


def test_explain_says_so_and_leaves_the_callers_network_as_it_was() -> None:
    """The layout is a copy's: what failed in it goes on without it."""
    network, image = Network(Flat(True), *STATISTICS), torch.rand(3, 5, 5)
    first = explain(network, image, "gradient", 0).map
    with pytest.raises(ConfigError, match=r"flattens by `view`"):
        explain(network, image, "gradient", 0, overrides=["compute.memory_format=channels_last"])
    assert torch.equal(explain(network, image, "gradient", 0).map, first)
