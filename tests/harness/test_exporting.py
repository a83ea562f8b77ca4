"""Networks that torch.fx cannot trace: cut in the graph of torch.export, and seen as if they could be."""

import copy
from pathlib import Path

import pandas as pd
import pytest
import torch
from assay.harness import launch
from assay.harness.config import Choice, ConfigError
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.network import Network
from assay.harness.overrides import compose_config
from assay.harness.types import Sample
from assay.methods.attribution.cam import GradCAM
from assay.methods.attribution.lift import LiftCAM
from conftest import assert_close, attribute, random_images
from torch import Tensor, nn

HALF: tuple[tuple[float, ...], tuple[float, ...]] = ((0.5,) * 3, (0.25,) * 3)
PAIRS = Targets(torch.tensor([0, 1, 1]), torch.tensor([1, 3, 0]))


class Plain(nn.Module):
    """A small classifier of 16 x 16 pixels with a block that writes in place and gives a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.act = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        self.block, self.fc = Pair(), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        features, _ = self.block(self.act(self.norm(self.stem(x))))
        return self.fc(features.mean((2, 3)))


class Pair(nn.Module):
    """The layer and another value, made last."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.mix(x) + x
        return y, y.mean() * 2


class Checking(Plain):
    """The same with control flow on shapes and sizes in Python numbers, which torch.fx cannot follow."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != 3 or min(x.shape[2:]) < 4:
            raise ValueError("small")
        return super().forward(x.reshape([x.shape[0], *x.shape[1:]]))


def pair() -> tuple[Network, Network]:
    """One by torch.fx and one by torch.export, of the same weights, in float64."""
    torch.manual_seed(1)
    plain = Plain()
    checking = Checking()
    checking.load_state_dict(copy.deepcopy(plain.state_dict()))
    one, other = (Network(each, *HALF, input_size=(16, 16)).to(dtype=torch.float64) for each in (plain, checking))
    return one, other


def test_layers_heads_and_penultimate_features_are_those_of_torch_fx() -> None:
    """Every module's layer, its head's logits and Grad-CAM; float64, 1e-12. A batch of one and of four."""
    fx, exported = pair()
    for count in (1, 4):
        images = random_images(count, 16).double()
        for layer in ("stem", "norm", "act", "block.mix"):
            one, other = (ForwardPass(each, images, (layer,), penultimate=True) for each in (fx, exported))
            assert_close(other.activation(layer), one.activation(layer), 1e-12)
            assert_close(other.head(layer)(other.activation(layer)), one.logits, 1e-12)
            assert_close(other.penultimate, one.penultimate, 1e-12)
    assert (fx.cut_by, exported.cut_by) == ("fx", "export")
    images = random_images(2, 16).double()
    for method in (GradCAM("act"), LiftCAM("act")):
        first, second = (attribute(method, each, images, PAIRS).values for each in (fx, exported))
        assert_close(second, first, 1e-12)


def test_a_module_that_gives_several_values_is_its_first() -> None:
    """The last operation of `block` makes the other value."""
    _, exported = pair()
    images = random_images(2, 16).double()
    module = exported.module
    expected = module.block(module.act(module.norm(module.stem((images - 0.5) / 0.25))))[0]  # type: ignore[operator]
    assert_close(ForwardPass(exported, images, ("block",)).activation("block"), expected, 1e-12)


def test_images_of_another_size_have_a_graph_of_their_own() -> None:
    fx, exported = pair()
    for size in (16, 24, 16):
        images = random_images(2, size).double()
        one, other = (attribute(GradCAM("act"), each, images, PAIRS).values for each in (fx, exported))
        assert_close(other, one, 1e-12)
        assert other.shape[-1] == size


class Indexed(Checking):
    """Positions from a table, whose index is made by writing into views, as BEiT makes its relative positions."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.arange(4.0))

    def forward(self, x: Tensor) -> Tensor:
        index = torch.zeros((2, 8), dtype=torch.int64)
        index[:, 1:] = torch.arange(7) % 3
        index[:, 0] += 1
        index[0, 0:] = 3
        positions = self.table[index].sum(0).view(1, 8, 1, 1)
        x = x.reshape([x.shape[0], *x.shape[1:]]) if x.shape[1] == 3 else x
        return self.fc(self.act(self.norm(self.stem(x)) + positions).mean((2, 3)))


def test_an_index_that_is_made_in_place_is_kept() -> None:
    """Logits of the module, and of the head from each layer; float64, 1e-12. The table is still a parameter."""
    torch.manual_seed(1)
    network = Network(Indexed(), *HALF, input_size=(16, 16)).to(dtype=torch.float64)
    images = random_images(2, 16).double()
    forward = ForwardPass(network, images, ("stem", "act"))
    assert_close(forward.logits, network.module(network.normalise(images)), 1e-12)
    for layer in ("stem", "act"):
        assert_close(forward.head(layer)(forward.activation(layer)), forward.logits, 1e-12)
    assert network.cut_by == "export"
    network.module.get_parameter("table").data += 1
    changed = ForwardPass(network, images, ("stem",)).logits
    assert_close(changed, network.module(network.normalise(images)), 1e-12)


class Scratch(Plain):
    """Room that is made anew in each pass, and written into."""

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.act(self.norm(self.stem(x))).sum((2, 3)) / max(1, x.shape[2])  # torch.fx cannot follow it
        room = torch.zeros(pooled.shape[1], dtype=x.dtype)
        room[1:].copy_(torch.maximum(room[1:], pooled.amax(0)[1:]))
        return self.fc(pooled - room)


def test_room_that_a_pass_writes_into_is_made_anew() -> None:
    """A second pass over other images knows nothing of the first; float64, 1e-12."""
    network = Network(Scratch(), *HALF, input_size=(16, 16)).to(dtype=torch.float64)
    for scale in (1.0, 0.25):
        images = scale * random_images(2, 16).double()
        made = ForwardPass(network, images, ("stem",)).logits
        assert_close(made, network.module(network.normalise(images)), 1e-12)


class Wide(Plain):
    """A head that divides by the number of pixels, which the graph of each size has as a constant."""

    def forward(self, x: Tensor) -> Tensor:
        pixels = max(1, x.shape[2]) * max(1, x.shape[3])  # a comparison: torch.fx cannot follow it
        return self.fc(self.act(self.norm(self.stem(x))).sum((2, 3)) / pixels)


def test_an_earlier_pass_keeps_its_head() -> None:
    """A pass over images of another size has come between; float64, 1e-12."""
    network = Network(Wide(), *HALF, input_size=(16, 16)).to(dtype=torch.float64)
    small, large = (ForwardPass(network, random_images(2, size).double(), ("stem",)) for size in (16, 24))
    activations = [each.activation("stem") for each in (small, large)]
    for each, activation in zip((small, large, small), (*activations, activations[0]), strict=True):
        assert_close(each.head("stem")(activation), each.logits, 1e-12)


class Branching(Plain):
    """Control flow on values."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() > -1e9 else -x)


def test_what_neither_can_follow_says_so() -> None:
    with pytest.raises(
        ValueError, match=r"Branching cannot be traced by torch.fx \(.*\), nor exported by torch.export"
    ):
        Network(Branching(), *HALF, input_size=(16, 16)).check_layer("act")


class Pictures:
    """Four images of noise."""

    split, classes = "test", ("a", "b", "c", "d")

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Sample:
        image = random_images(4, 16)[index].clamp(0, 1)
        return Sample(f"picture{index}", image, (index,), (16, 16))

    def fingerprint(self) -> str:
        return "pictures"


CAM = ["method=[gradcam]", "method.gradcam.layer=act"]


def run_of(module: nn.Module, words: list[str], results: Path) -> pd.DataFrame:
    """`run.py` on a network; what happened, of runs.csv."""
    words = [*words, "metric=[positive_ratio]", "compute.device=cpu", "compute.processes=1"]
    config = compose_config([*words, f"results={results}"])
    made = Network(module, *HALF, fingerprint="untraced")
    config.model = Choice("model", "untraced", {"_target_": "untraced"}, made=made)
    config.dataset = Choice("dataset", "pictures", {"_target_": "pictures"}, made=Pictures())
    assert launch.run(config, []) == 0
    assert pd.read_csv(results / "tidy/results.csv")["status"].eq("ok").all()
    return pd.read_csv(results / "tidy/runs.csv")


def test_a_run_says_what_cut_the_network(tmp_path: Path) -> None:
    """runs.csv: fx, export, or nothing where no layer was asked for. Values that decide are refused by name."""
    assert run_of(Plain(), CAM, tmp_path / "fx")["cut_by"].unique().tolist() == ["fx"]
    assert run_of(Checking(), CAM, tmp_path / "export")["cut_by"].unique().tolist() == ["export"]
    assert run_of(Branching(), ["method=[gradient]"], tmp_path / "none")["cut_by"].isna().all()
    with pytest.raises(ConfigError, match=r"method gradcam: Branching cannot be traced by torch\.fx"):
        run_of(Branching(), CAM, tmp_path / "refused")
