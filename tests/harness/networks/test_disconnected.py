"""Networks whose cells do not see one another: logits, probabilities, and layers side by side."""

import pytest
import torch
from assay.datasets.grid import Grid
from assay.datasets.scenes import Scenes
from assay.harness.build import build
from assay.harness.forward import ForwardPass
from assay.harness.frames import cells_apart, cells_together
from assay.harness.network import Network
from assay.harness.networks.disconnected import disconnected
from assay.harness.overrides import compose_config
from assay.harness.types import Attributor, Batch
from assay.methods.attribution.cam import GradCAM
from assay.methods.attribution.deeplift import DeepLIFT
from assay.methods.attribution.fullgrad import FullGrad
from assay.methods.attribution.relevance.agf import AGF
from assay.methods.attribution.relevance.hedge import GradientHedge
from assay.methods.attribution.relevance.rsp import RSP
from conftest import attribute, attribute_alone
from torch import nn

NETWORKS = ("scenes_vgg", "scenes_resnet")


def network_of(name: str) -> Network:
    made: Network = build(compose_config([f"model={name}"]).model)
    return made


def type_name(value: object) -> str:
    return type(value).__name__


def grids(count: int = 2) -> Batch:
    data = Grid(Scenes("test", 16 * count, (1, 1)), size=count, heads=True)
    return Batch.of([data[index] for index in range(count)])


def test_cells_apart_and_together() -> None:
    """Grid b, cell (r, c) is row 4 b + 2 r + c; together is the inverse."""
    values = torch.arange(2 * 1 * 4 * 6).view(2, 1, 4, 6)
    rows = cells_apart(values, 2)
    assert rows.shape == (8, 1, 2, 3)
    for row, (b, r, c) in enumerate((b, r, c) for b in range(2) for r in range(2) for c in range(2)):
        assert torch.equal(rows[row], values[b, :, 2 * r : 2 * r + 2, 3 * c : 3 * c + 3])
    assert torch.equal(cells_together(rows, 2), values)


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_the_cells_own(name: str) -> None:
    """Those of the network itself for each cell's image, and layers its maps side by side; 1e-4, another batch."""
    plain, made, batch = network_of(name), network_of(f"{name}_disconnected"), grids()
    forward = ForwardPass(made, batch.images, ("network.target", "network.saliency"))
    layer = compose_config([f"model={name}"]).model.notes["target_layer"]
    alone = ForwardPass(plain, cells_apart(batch.images, 2), (layer,))
    torch.testing.assert_close(forward.logits, alone.logits.view(2, -1), atol=1e-4, rtol=0)
    whole = cells_together(alone.activation(layer), 2)
    torch.testing.assert_close(forward.activation("network.target"), whole, atol=1e-4, rtol=0)
    torch.testing.assert_close(made(forward.inputs), forward.logits, atol=1e-4, rtol=0)  # without the tap


@pytest.mark.parametrize("name", NETWORKS)
def test_no_other_cell_has_a_gradient(name: str) -> None:
    """Exactly 0 outside of the class' own cell, and not inside."""
    batch = grids()
    forward = ForwardPass(network_of(f"{name}_disconnected"), batch.images, input_graph=True)
    gradient = forward.input_gradient(batch.targets).abs().sum(1)  # [P,128,128]
    by_cell = cells_apart(gradient[:, None], 2).flatten(1).sum(1).view(-1, 4)
    own = batch.targets.label // 11
    assert ((by_cell > 0) == nn.functional.one_hot(own, 4).bool()).all()


def test_probabilities_are_each_cells_own() -> None:
    """Softmax over a cell's classes: sums of 1 a cell, and one class predicted in each."""
    made = disconnected(Network(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), (0.0,) * 3, (1.0,) * 3))
    logits = ForwardPass(made, torch.rand(5, 3, 4, 4)).logits
    assert logits.shape == (5, 12)
    shares, chosen = made.probabilities(logits).view(5, 4, 3), made.predicts(logits).view(5, 4, 3)
    torch.testing.assert_close(shares.sum(2), torch.ones(5, 4))
    assert torch.equal(chosen.int().argmax(2), shares.argmax(2))
    assert (chosen.sum(2) == 1).all()


def test_layers_with_a_row_a_cell_are_refused() -> None:
    """A CAM would read another image's row, relevance would start in one: by name, never another image's map."""
    made, batch = network_of("scenes_resnet_disconnected"), grids()
    with pytest.raises(ValueError, match=r"layer 'network.layer3.0.relu' gives \[8, 96, 8, 8\] for 2 images"):
        attribute(GradCAM("network.layer3.0.relu"), made, batch.images, batch.targets)
    with pytest.raises(ValueError, match="for 2 images: its rows are parts of images"):
        attribute(GradientHedge("network.layer3.0.relu"), made, batch.images, batch.targets)
    with pytest.raises(ValueError, match=r"layer 'network.fc' gives \[8, 11\] for 2 images"):
        attribute(FullGrad(), made, batch.images, batch.targets)


@pytest.mark.parametrize("method", [GradientHedge("network.target"), RSP("network.target"), AGF()], ids=type_name)
def test_methods_that_weigh_an_image_are_refused(method: Attributor) -> None:
    """Their sums over an image would be sums over a cell, and other cells come out as strong as the class' own."""
    made, batch = network_of("scenes_resnet_disconnected"), grids()
    with pytest.raises(ValueError, match=r"weighs all of an image's relevance.*has 8 rows for 2 images"):
        attribute(method, made, batch.images, batch.targets)


def test_what_cannot_be_disconnected() -> None:
    """No grid, grouped outputs, and layers that are not there."""
    plain = network_of("scenes_resnet")
    with pytest.raises(ValueError, match="cells=1: give at least 2"):
        disconnected(plain, 1)
    with pytest.raises(ValueError, match="layer 'layer33' is not in ScenesResNet: did you mean"):
        disconnected(plain, shown={"target": "layer33"})
    with pytest.raises(ValueError, match="'layer3' is no name, or the network has a module of that name"):
        disconnected(plain, shown={"layer3": "layer3"})
    with pytest.raises(ValueError, match="lies inside a block that another branch passes by"):
        disconnected(plain, shown={"target": "layer3.0.conv2"})
    grouped = Network(plain.module, (0.5,) * 3, (0.25,) * 3, groups=[[0, 1], [2]])
    with pytest.raises(ValueError, match="grouped outputs cannot be disconnected"):
        disconnected(grouped)


@pytest.mark.parametrize("baseline", ["mean", "blur"])
def test_deeplift_takes_batches_of_grids(baseline: str) -> None:
    """A layer has a row a cell, of the baseline as of the images: two grids together as alone, and exact (1e-5)."""
    made, batch = network_of("scenes_resnet_disconnected"), grids()
    maps = attribute(DeepLIFT(baseline), made, batch.images, batch.targets).values
    torch.testing.assert_close(
        maps, attribute_alone(DeepLIFT(baseline), made, batch.images, batch.targets), atol=1e-5, rtol=0
    )
    by_cell = cells_apart(maps[:, None].abs(), 2).flatten(1).sum(1).view(-1, 4)
    assert ((by_cell > 0) == nn.functional.one_hot(batch.targets.label // 11, 4).bool()).all()
