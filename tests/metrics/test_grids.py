"""Grid pointing and disconnection: networks whose right map is worked out here, floors, and what is refused."""

import math

import pandas as pd
import pytest
import torch
from assay.harness.forward import ForwardPass
from assay.harness.network import Network
from assay.harness.networks.disconnected import disconnected
from assay.harness.types import Attribution, Batch, FramedMaps, Sample
from assay.methods.attribution.cam import GradCAM
from assay.methods.attribution.cam_gradient import LayerCAM
from assay.metrics.grids import Disconnection, GridPointing
from conftest import attribute
from torch import Tensor, nn

import assay

# Cells of 2x2 pixels of one colour: red, green, blue, white; class c is in cell c. The network is linear: logit c of an
# image is the mean over its pixels of w_c . (r, g, b).
COLOURS = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])
WEIGHTS = torch.tensor([[2.0, 0, 0], [0, -1, 0], [1, 0, 1], [1, 1, 1]])


class Linear(nn.Module):
    """A 1x1 convolution that changes nothing, the mean over space, and w_c."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 3, 1, bias=False), nn.Linear(3, 4, bias=False)
        self.conv.weight.data, self.fc.weight.data = torch.eye(3)[:, :, None, None], WEIGHTS.clone()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).mean((2, 3)))


def linear() -> Network:
    return Network(Linear(), (0.0,) * 3, (1.0,) * 3, "sigmoid")


def sample(labels: tuple[int, ...] = (0, 1, 2, 3), targets: tuple[int, ...] | None = None) -> Sample:
    cells = COLOURS.view(2, 2, 3).permute(2, 0, 1)
    corners = [(0, 0), (2, 0), (0, 2), (2, 2)]
    boxes = {label: torch.tensor([[x, y, x + 2, y + 2]]) for label, (x, y) in zip(labels, corners, strict=True)}
    return Sample("g", cells.repeat_interleave(2, 1).repeat_interleave(2, 2), targets or labels, (4, 4), boxes)


def gradient_times_input(network: Network, batch: Batch) -> FramedMaps:
    forward = ForwardPass(network, batch.images, input_graph=True)
    gradient = forward.input_gradient(batch.targets)
    return FramedMaps.of(Attribution((gradient * forward.inputs[batch.targets.image]).sum(1)), batch)


# Grid pointing


def test_grid_pointing_by_hand() -> None:
    """Gradient x input of class c in a cell is w_c . colour, over 16 pixels.

    Class 0: 2 0 0 2, its cell has 2/4. Class 1: 0 -1 0 -1, no positive value: 0. Class 2: 1 0 1 2, 1/4. Class 3:
    1 1 1 3, 3/6. Alone the cells' logits are 2, -1, 1, 3: the least probability is the green one's, 1 / (1 + e).
    """
    batch, network = Batch.of([sample()]), linear()
    found = GridPointing().measure(batch, gradient_times_input(network, batch), ForwardPass(network, batch.images))
    assert found["share"].tolist() == pytest.approx([1 / 2, 0, 1 / 4, 1 / 2])
    assert found["empty"].tolist() == [False, True, False, False]
    assert found["confidence"].tolist() == pytest.approx([1 / (1 + math.e)] * 4)


@pytest.mark.parametrize("targets", [(0, 1, 2, 3), (3, 1), (2,)])
def test_every_map_that_ignores_the_class_has_a_quarter(targets: tuple[int, ...]) -> None:
    """One map for all four classes: its shares sum to 1. Subsets of the classes have their own cells' shares."""
    batch, network = Batch.of([sample(targets=targets)]), linear()
    values = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(1))
    maps = FramedMaps.of(Attribution(values.expand(len(targets), -1, -1)), batch)
    share = GridPointing().measure(batch, maps, ForwardPass(network, batch.images))["share"]
    cells = values.view(2, 2, 2, 2).sum((1, 3)).flatten() / values.sum()
    torch.testing.assert_close(share.float(), cells[list(targets)])
    assert cells.mean() == pytest.approx(1 / 4)


def test_only_confident_grids_count() -> None:
    """Shares .5 and .1 of two grids: the second's confidence is below .99; null takes both, and counts empty maps."""
    frame = pd.DataFrame(
        {"image_id": ["a", "b"], "share": [0.5, 0.1], "empty": [False, True], "confidence": [0.995, 0.98]}
    )
    sure, every = ({row.stat: row for row in GridPointing(c).summarize(frame)} for c in (0.99, None))
    assert (sure["mean"].value, sure["mean"].n, sure["mean"].variant) == (0.5, 1, "confidence>=0.99")
    assert every["mean"].value == pytest.approx(0.3)
    assert (every["mean"].n, every["mean"].variant) == (2, "all grids")
    assert (sure["empty_pairs"].value, every["empty_pairs"].value) == (0, 1)
    none = GridPointing(1.0).summarize(frame)[0]
    assert none.value is None
    assert none.status.startswith("undefined:")


def test_what_is_no_grid() -> None:
    """Boxes that are no cells, classes in no cell, networks of grids alone, a probability of 0."""
    network, whole = linear(), sample()
    maps = FramedMaps.of(Attribution(torch.ones(1, 4, 4)), Batch.of([sample(targets=(0,))]))
    no_boxes = Batch.of([Sample("s", whole.image, (0,), (4, 4))])
    off = Batch.of([Sample("s", whole.image, (0,), (4, 4), {**whole.boxes, 0: torch.tensor([[0, 0, 3, 2]])})])
    for batch in (no_boxes, off):
        with pytest.raises(ValueError, match=r"sample 's' is no grid.*dataset=scenes_grid"):
            GridPointing().measure(batch, maps, ForwardPass(network, batch.images))
    predicted = Batch.of([sample((0, 1, 2, 5), (3,))])
    with pytest.raises(ValueError, match="g#3: the class is in no cell of the grid"):
        GridPointing().measure(predicted, maps, ForwardPass(network, predicted.images))
    cells = Batch.of([sample((0, 5, 10, 15))])
    with pytest.raises(ValueError, match="measure disconnection, or choose the network itself"):
        GridPointing().measure(
            cells,
            FramedMaps.of(Attribution(torch.ones(4, 4, 4)), cells),
            ForwardPass(disconnected(network), cells.images),
        )
    with pytest.raises(ValueError, match="confidence=0: a probability above 0"):
        GridPointing(0)


# Disconnection


def test_disconnection_by_hand() -> None:
    """Class c in cell c of the network with a head a cell; Grad-CAM's weights are w_c / 16 over the whole grid.

    Its map of class 0 is (2, 0, 0, 2) / 16 a cell and leaks half; of class 1 (0, 0, 0, 0) after the ReLU: undefined; of
    class 2 (1, 0, 1, 2) / 16: a quarter; of class 3 (1, 1, 1, 3) / 16: half. LayerCAM weights each position by its own
    gradient, gradient x input is the gradient's: all is in the own cell.
    """
    batch = Batch.of([sample((0, 5, 10, 15))])
    network = disconnected(linear(), shown={"maps": "conv"})
    forward = ForwardPass(network, batch.images)

    def measured(maps: FramedMaps) -> dict[str, list[float]]:
        found = Disconnection().measure(batch, maps, forward)
        return {name: column.nan_to_num(-1).tolist() for name, column in found.items()}

    def of(method: GradCAM | LayerCAM) -> FramedMaps:
        return FramedMaps.of(attribute(method, network, batch.images, batch.targets), batch)

    assert measured(of(GradCAM("network.maps"))) == {"share": [0.5, -1, 0.25, 0.5], "exact": [0, -1, 0, 0]}
    assert measured(of(LayerCAM("network.maps"))) == {"share": [1, -1, 1, 1], "exact": [1, -1, 1, 1]}
    assert measured(gradient_times_input(network, batch)) == {"share": [1, 1, 1, 1], "exact": [1, 1, 1, 1]}


def test_negative_values_and_the_least_leak_count() -> None:
    """-1 in another cell is as wrong as +1; a leak of 1e-30 leaves a share of 1, and is not exact."""
    batch = Batch.of([sample((0, 5, 10, 15), (0, 5))])
    values = torch.zeros(2, 4, 4)
    values[:, 0, 0], values[0, 3, 3], values[1, 0, 2], values[1, 0, 0] = 3, -1, 2, 1e-30
    network = disconnected(linear())
    maps = FramedMaps.of(Attribution(values), batch)
    found = Disconnection().measure(batch, maps, ForwardPass(network, batch.images))
    assert found["share"].tolist() == [0.75, 1]
    assert found["exact"].tolist() == [0, 0]


def test_a_network_that_sees_all_cells_is_refused() -> None:
    """The linear network's mean over the grid reads every cell; class 2 of a head a cell is cell 0's, not cell 2's."""
    network, plain = linear(), Batch.of([sample()])
    maps = FramedMaps.of(Attribution(torch.ones(4, 4, 4)), plain)
    with pytest.raises(ValueError, match=r"g#0: the logit changes with the other cells.*scenes_vgg_disconnected"):
        Disconnection().measure(plain, maps, ForwardPass(network, plain.images))
    with pytest.raises(ValueError, match=r"g#2: the logit changes with the other cells.*heads=true"):
        Disconnection().measure(plain, maps, ForwardPass(disconnected(network), plain.images))


def test_a_resolution_that_has_no_cells() -> None:
    """Maps of 3x3 values have no 2x2 cells."""
    batch = Batch.of([sample((0, 5, 10, 15))])
    maps = FramedMaps.of(Attribution(torch.ones(4, 3, 3)), batch)
    with pytest.raises(ValueError, match=r"maps of \[3, 3\] cannot be cut in 2 x 2 cells"):
        Disconnection().measure(batch, maps, ForwardPass(disconnected(linear()), batch.images))


# On the embedded networks


def shares(metric: str, model: str, dataset: str, batch_size: int) -> dict[str, Tensor]:
    """The share of each pair, by method, of two grids."""
    settings = ["limit=2", f"compute.batch_size={batch_size}"]
    methods = ["gradient", "gradcam", "layercam", "lrp_alpha1beta0", "random", "edges"]
    table = assay.samples(model, dataset, methods, metric, overrides=settings)
    return {name: torch.tensor(part[f"{metric}.share"].to_numpy()) for name, part in table.groupby("method")}


def test_the_embedded_network_disconnected() -> None:
    """Gradients, rules and LayerCAM are exact, Grad-CAM leaks, floors have a quarter; batches change nothing (1e-6)."""
    one, two = (shares("disconnection", "scenes_resnet_disconnected", "scenes_disconnected", b) for b in (1, 2))
    for name in ("gradient", "layercam", "lrp_alpha1beta0"):
        assert (one[name] == 1).all(), name
    assert one["gradcam"].min() < 0.97
    for name in ("random", "edges"):
        assert one[name].mean() == pytest.approx(0.25, abs=0.01)
    for name, values in one.items():
        torch.testing.assert_close(two[name], values, atol=1e-6, rtol=0)


def test_the_embedded_network_on_grids() -> None:
    """Grad-CAM finds the cell, class-agnostic maps have a quarter on average; batches change nothing (1e-5)."""
    one, two = (shares("grid_pointing", "scenes_resnet", "scenes_grid", b) for b in (1, 2))
    assert one["gradcam"].mean() > 0.8
    assert one["edges"].view(2, 4).sum(1).tolist() == pytest.approx([1, 1])
    assert one["random"].mean() == pytest.approx(0.25, abs=0.01)
    for name, values in one.items():
        torch.testing.assert_close(two[name], values, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("metric", "model", "dataset"),
    [
        ("disconnection", "scenes_resnet_disconnected", "scenes_disconnected"),
        ("grid_pointing", "scenes_resnet", "scenes_grid"),
    ],
)
def test_what_is_no_methods_is_found_once(
    metric: str, model: str, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Methods that send nothing through the network: the passes of three are those of one, to the same bits."""
    rows: list[int] = []
    infer = Network.infer

    def counted(network: Network, inputs: Tensor) -> Tensor:
        rows.append(len(inputs))
        return infer(network, inputs)

    monkeypatch.setattr(Network, "infer", counted)

    def measured(*methods: str) -> dict[str, pd.DataFrame]:
        rows.clear()
        table = assay.samples(model, dataset, [*methods], metric, overrides=["limit=2", "compute.batch_size=2"])
        assert sum(rows) == 2 * 4  # an image a cell, or a pair a cell
        return {name: part.reset_index(drop=True) for name, part in table.groupby("method")}

    together, alone = measured("edges", "random", "center"), measured("center")
    pd.testing.assert_frame_equal(alone["center"], together["center"], check_exact=True)
