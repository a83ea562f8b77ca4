"""NaN and infinity: the weights' tensor, the image and the fit are named, and no number is made of them."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from assay.harness import launch
from assay.harness.config import ConfigError
from assay.harness.detection import DetectorNeeds, Features, State
from assay.harness.engine.finite import check_rows, check_weights
from assay.harness.overrides import compose_config
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import assay

EMBEDDED = Path(assay.__file__).parents[1] / "harness/networks/embedded"
IMAGES = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = [index % 3 for index in range(12)]


class Net(nn.Module):
    """A convolution whose pooled features lead to three logits; hiding what is not finite in `seen`, if asked."""

    def __init__(self, hides: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 3)
        self.register_buffer("attend", torch.tensor([0.0, -torch.inf]))
        self.seen, self.hides = nn.Identity(), hides

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x)
        if self.hides:
            maps = self.seen(maps / (1 - x.amax((1, 2, 3), keepdim=True))).nan_to_num(0, 0, 0)
        return self.fc(maps.mean((2, 3)))


def model(module: nn.Module) -> tuple[nn.Module, list[float], list[float]]:
    return module, [0.0] * 3, [1.0] * 3


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_the_tensor_is_named(value: float) -> None:
    """And how many of its values; a mask's -inf is no mistake, other infinities of a buffer are."""
    net = Net()
    check_weights(net, "net")
    with torch.no_grad():
        net.conv.weight[1, 2, 0, 0] = value
    with pytest.raises(ConfigError, match=r"model net: weights that are no numbers .*: conv\.weight, 1 of 108\. The"):
        check_weights(net, "net")


def test_buffers() -> None:
    net = Net()
    net.attend = torch.tensor([torch.inf, torch.nan])
    with pytest.raises(ConfigError, match="attend, 2 of 2"):
        check_weights(net, "net")


def test_one_weight_of_a_file(tmp_path: Path) -> None:
    """From the command's config: refused, nothing stored."""
    state = load_file(EMBEDDED / "scenes_vgg.safetensors")
    name = next(each for each in state if each.endswith("weight"))
    state[name].view(-1)[5] = torch.nan
    save_file(state, tmp_path / "bad.safetensors")
    words = ["method=[gradcam]", "metric=[pointing_game]", f"model.weights={tmp_path / 'bad.safetensors'}"]
    with pytest.raises(ConfigError, match=f"model scenes_vgg: weights that are no numbers .*: {name}, 1 of"):
        launch.run(compose_config([*words, "limit=4", "compute.processes=1", f"results={tmp_path / 'out'}"]), [])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("ask", ["evaluate", "explain", "fit"])
def test_one_weight_of_a_module(ask: str) -> None:
    net = Net()
    with torch.no_grad():
        net.fc.bias[0] = torch.nan
    with pytest.raises(ConfigError, match=r"model Net: weights that are no numbers .*: fc\.bias, 1 of 3"):
        if ask == "evaluate":
            assay.evaluate(model(net), (IMAGES, LABELS), "gradient", "positive_ratio")
        elif ask == "explain":
            assay.explain(model(net), IMAGES[0], "gradient")
        else:
            assay.fit("knn", model(net), (IMAGES, LABELS))


def test_rows_are_named() -> None:
    """The first five, and how many more; an all-zero row is fine."""
    values = torch.zeros(9, 2)
    check_rows("maps are", values, list("abcdefghi"))
    values[2:, 1] = torch.nan
    with pytest.raises(ValueError, match=r"maps are not finite for c, d, e, f, g and 2 more$"):
        check_rows("maps are", values, list("abcdefghi"))


class Spread:
    """A detector that reads a layer, and would make a finite score of anything."""

    VERSION = 1

    def needs(self) -> DetectorNeeds:
        return DetectorNeeds(layers=("seen",))

    def score(self, features: Features, state: State) -> Tensor:
        return features.tap("seen").std(1).nan_to_num(0, 0, 0)


def test_a_feature_that_logits_hide() -> None:
    """Infinite activations before finite logits: no score, no AUROC; layer and image are named."""
    images = IMAGES * 0.9
    images[4] /= images[4].max()  # its brightest pixel divides by 0
    why = r"spread failed: .*features \(layer seen\) are not finite for image000004$"
    with pytest.warns(RuntimeWarning, match=why):
        table = assay.evaluate(model(Net(hides=True)), (images, LABELS), {"spread": Spread()}, "error_detection")
    assert table.value.isna().all()


def test_a_fit_that_left_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    from assay.methods.ood.knn import KNN

    monkeypatch.setattr(KNN, "fit", lambda *_: {"bank": torch.tensor([1.0, torch.nan]), "other": torch.zeros(1)})
    with pytest.raises(RuntimeError, match="knn could not be fitted: ValueError: knn: the fit left NaN in bank"):
        assay.fit("knn", model(Net()), (IMAGES, LABELS))


def test_scores_name_their_images(monkeypatch: pytest.MonkeyPatch) -> None:
    from assay.methods.ood.logits import MSP

    def bad(self: MSP, features: object, state: object) -> Tensor:
        return torch.where(torch.arange(12) == 7, torch.nan, 0.5)

    monkeypatch.setattr(MSP, "score", bad)
    with pytest.warns(
        RuntimeWarning, match="msp failed: ValueError: msp returned scores that are not finite for image0"
    ):
        table = assay.evaluate(model(Net()), (IMAGES, LABELS), "msp", "error_detection")
    assert table.value.isna().all() and isinstance(table, pd.DataFrame)


def test_infinities_that_cancel_are_found() -> None:
    """The quick look sums: inf - inf is no finite number, and a sum that overflows is looked at again."""
    net = Net()
    with torch.no_grad():
        net.fc.weight[0, 0], net.fc.weight[1, 0] = torch.inf, -torch.inf
    with pytest.raises(ConfigError, match=r"fc\.weight, 2 of 12"):
        check_weights(net, "net")
    with torch.no_grad():
        net.fc.weight.fill_(3e38)
    check_weights(net, "net")


@pytest.mark.parametrize("method", ["gradient", "msp"])
def test_masked_classes_are_refused(method: str) -> None:
    """Methods differentiate and detectors average all logits, so -inf is none; the mend is said."""

    class Masked(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.tensor([0.0, 0.0, -torch.inf])

    metric = "positive_ratio" if method == "gradient" else "error_detection"
    with pytest.raises(ConfigError, match=r"logits of image000000, .* -inf for a class that is masked\? Give it -1e4"):
        assay.evaluate(model(Masked()), (IMAGES, LABELS), method, metric)
