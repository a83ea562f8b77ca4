"""The pointing game's networks: their arithmetic against slow references, and the conversion of checkpoints.

The published files cannot be had offline. `published` builds state dicts of their names and shapes from a random
network, by the inverse of the documented differences.
"""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.networks.caffe import ARCHITECTURES, CaffeNetwork, SpatialLogits
from assay.harness.networks.loading import caffe_network
from assay.harness.networks.weights import file_sha256
from conftest import random_images
from torch import Tensor, nn

PIXEL_MEAN = [123.68, 116.779, 103.939]


def random_network(architecture: str, classes: int = 20) -> CaffeNetwork:
    """With activations of unit scale and batch-norm statistics that are not trivial."""
    from torchvision import models

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        plain = {"init_weights": False} if architecture == "vgg16" else {}
        module = ARCHITECTURES[architecture](models.get_model(architecture, **plain), classes, "log_mean_exp")
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                assert layer.running_mean is not None
                assert layer.running_var is not None
                layer.running_mean.uniform_(-0.2, 0.2)
                layer.running_var.uniform_(0.5, 2)
            if isinstance(layer, nn.Conv2d) and architecture == "vgg16":
                layer.weight.data *= 2.4  # PyTorch's initialisation shrinks activations by sqrt(6) a layer
    return module.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def vgg() -> CaffeNetwork:
    return random_network("vgg16")


@pytest.fixture(scope="module")
def resnet() -> CaffeNetwork:
    return random_network("resnet50")


def published(module: CaffeNetwork) -> dict[str, Tensor]:
    """The layout of the published files: BGR, no dropout layers counted, batch-norm as two layers."""
    state = {}
    for name, value in module.state_dict().items():
        parts = name.split(".")
        if name.endswith("num_batches_tracked"):
            continue
        if name in ("features.0.weight", "conv1.weight"):
            value = value[:, [2, 1, 0]]
        if name.startswith("classifier"):
            name = f"classifier.{ {'0': '0', '3': '2', '6': '4'}[parts[1]] }.{parts[2]}"
        if name == "fc.weight":
            value = value.flatten(1)
        scale = ["0"] if parts[-1].startswith("running") else ["1"]
        if any(part.startswith("bn") for part in parts) or (parts[-3:-1] == ["downsample", "1"]):
            name = ".".join([*parts[:-1], *scale, parts[-1]])
        state[name] = value
    return state


# The reading over space


def test_log_mean_exp_follows_its_definition() -> None:
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    expected = logits.exp().mean((2, 3)).log()
    torch.testing.assert_close(SpatialLogits("log_mean_exp")(logits), expected)
    torch.testing.assert_close(SpatialLogits("mean")(logits), logits.mean((2, 3)))


def test_one_position_is_the_logit_itself_even_where_exp_overflows() -> None:
    logits = torch.tensor([900.0, -900.0]).view(1, 2, 1, 1)
    assert SpatialLogits("log_mean_exp")(logits).tolist() == [[900, -900]]


def test_the_gradient_starts_as_the_pointing_games() -> None:
    """exp(f_c) / Sum exp(f_c) over space in the target's map, zero elsewhere."""
    logits = torch.randn(1, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(SpatialLogits("log_mean_exp")(logits)[0, 1], logits)
    start = torch.zeros_like(logits)
    start[0, 1] = logits[0, 1].exp() / logits[0, 1].exp().sum()
    torch.testing.assert_close(gradient, start.detach())


def test_another_reading_is_refused() -> None:
    with pytest.raises(ValueError, match="spatial='max': choose log_mean_exp or mean"):
        SpatialLogits("max")  # type: ignore[arg-type]


# The networks against slow references


def caffe_pool(x: Tensor, size: int) -> Tensor:
    """Max-pool of stride 2 whose last window may stick out, cell by cell."""
    height, width = (-(-(side - size) // 2) + 1 for side in x.shape[2:])
    cells = [
        x[:, :, 2 * i : 2 * i + size, 2 * j : 2 * j + size].amax((2, 3)) for i in range(height) for j in range(width)
    ]
    return torch.stack(cells, 2).view(*x.shape[:2], height, width)


def test_vgg_is_its_linear_form_on_every_7x7_window_of_the_features(vgg: CaffeNetwork) -> None:
    x = torch.randn(1, 3, 200, 250)  # features 7 x 8 with pools that round up; 6 x 7 with pools that do not
    state = vgg.state_dict()
    features = x
    for layer in vgg.get_submodule("features").children():
        features = caffe_pool(features, 2) if isinstance(layer, nn.MaxPool2d) else layer(features)
    assert features.shape == (1, 512, 7, 8)
    windows = torch.stack([features[:, :, :, j : j + 7].flatten(1) for j in range(2)], 1)  # [1,2,25088]
    for index in (0, 3, 6):
        weight = state[f"classifier.{index}.weight"].flatten(1)
        windows = F.linear(windows, weight, state[f"classifier.{index}.bias"])
        windows = windows.relu() if index < 6 else windows
    expected = windows.exp().mean(1).log()
    assert expected.std() > 0.01
    torch.testing.assert_close(vgg(x), expected, rtol=1e-4, atol=1e-4)


def test_resnet_is_its_definition_written_out(resnet: CaffeNetwork) -> None:
    x = torch.randn(1, 3, 256, 258)  # the max-pool's last window sticks out
    state = {name: value.double() for name, value in resnet.state_dict().items()}

    def conv(x: Tensor, name: str, stride: int = 1, padding: int = 0) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), stride, padding)

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, scale, shift = (
            state[f"{name}.{key}"].view(1, -1, 1, 1) for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    out = caffe_pool(norm(conv(x.double(), "conv1", 2, 3), "bn1").relu(), 3)
    for stage, blocks in enumerate((3, 4, 6, 3), 1):
        for block in range(blocks):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            inner = norm(conv(out, f"{name}.conv1", stride), f"{name}.bn1").relu()
            inner = norm(conv(inner, f"{name}.conv2", 1, 1), f"{name}.bn2").relu()
            inner = norm(conv(inner, f"{name}.conv3"), f"{name}.bn3")
            if block == 0:
                out = norm(conv(out, f"{name}.downsample.0", stride), f"{name}.downsample.1")
            out = (out + inner).relu()
    rows, columns = out.shape[2] - 6, out.shape[3] - 6
    assert (rows, columns) == (2, 2)
    pooled = [out[:, :, i : i + 7, j : j + 7].mean((2, 3)) for i in range(rows) for j in range(columns)]
    logits = torch.stack([F.linear(p, state["fc.weight"].flatten(1), state["fc.bias"]) for p in pooled], 1)
    expected = logits.exp().mean(1).log()
    torch.testing.assert_close(resnet(x).double(), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


# Published checkpoints


@pytest.mark.parametrize("name", ["vgg", "resnet"])
def test_a_published_checkpoint_becomes_the_same_network(name: str, request: pytest.FixtureRequest) -> None:
    module = request.getfixturevalue(name)
    checkpoint = published(module)
    own = {key: value for key, value in module.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert checkpoint.keys() != own.keys()
    converted = module.converted(checkpoint)
    assert converted.keys() == own.keys()
    assert all(converted[key].equal(own[key]) for key in own)


def test_the_published_names(vgg: CaffeNetwork, resnet: CaffeNetwork) -> None:
    """The layout that the tests make up is the documented one."""
    names = published(vgg)
    assert [name for name in names if name.startswith("classifier") and name.endswith("weight")] == [
        "classifier.0.weight",
        "classifier.2.weight",
        "classifier.4.weight",
    ]
    assert names["classifier.0.weight"].shape == (4096, 512, 7, 7)
    names = published(resnet)
    assert {"bn1.0.running_mean", "bn1.1.weight", "layer1.0.downsample.1.0.running_var", "conv1.bias"} <= names.keys()
    assert {"layer1.0.downsample.0.weight", "layer4.2.bn3.1.bias"} <= names.keys()


def test_linear_weights_as_matrices_fit_too(vgg: CaffeNetwork) -> None:
    checkpoint = {k: v.flatten(1) if "classifier" in k and v.ndim > 1 else v for k, v in published(vgg).items()}
    assert vgg.converted(checkpoint)["classifier.0.weight"].equal(vgg.state_dict()["classifier.0.weight"])


def test_a_network_saved_after_its_conversion_is_rgb_already(resnet: CaffeNetwork) -> None:
    converted = resnet.converted(resnet.state_dict())
    assert converted["conv1.weight"].equal(resnet.state_dict()["conv1.weight"])


def test_a_batch_norm_given_twice_is_refused(resnet: CaffeNetwork) -> None:
    checkpoint = published(resnet)
    checkpoint["bn1.0.weight"] = checkpoint["bn1.1.weight"]
    with pytest.raises(ValueError, match=r"bn1\.weight twice"):
        resnet.converted(checkpoint)


def test_a_file_is_checked_converted_and_sees_caffes_pixels(resnet: CaffeNetwork, tmp_path: Path) -> None:
    path = tmp_path / "resnet50_voc-00000000.pth.tar"
    torch.save(published(resnet), path)
    with pytest.raises(ValueError, match=r"sha256 of .* expected 00000000"):
        caffe_network("resnet50", str(path), "00000000", 20, PIXEL_MEAN)
    network = caffe_network("resnet50", str(path), file_sha256(path)[:8], 20, PIXEL_MEAN)
    images = random_images(1, 224)
    caffe = images * 255 - torch.tensor(PIXEL_MEAN).view(1, 3, 1, 1)
    torch.testing.assert_close(network.normalise(images), caffe, rtol=1e-6, atol=1e-3)
    logits = network(network.normalise(images))
    torch.testing.assert_close(logits, resnet(caffe), rtol=1e-3, atol=1e-3)
    assert network.activation == "sigmoid"


def test_a_missing_file_says_where_the_published_one_is() -> None:
    with pytest.raises(FileNotFoundError) as error:
        caffe_network("vgg16", "weights/vgg16_voc-b050e8c3.pth.tar", "b050e8c3", 20, PIXEL_MEAN)
    message = str(error.value)
    assert "curl" in message
    assert "https://dl.fbaipublicfiles.com/torchray/vgg16_voc-b050e8c3.pth.tar" in message
    assert "sha256 starts with" in message


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(ValueError, match="choose one of vgg16, resnet50"):
        caffe_network("alexnet", None, None, 20, PIXEL_MEAN)


def test_layers_can_be_read_and_cut() -> None:
    network = caffe_network("resnet50", None, None, 20, PIXEL_MEAN)
    forward = ForwardPass(network, random_images(1, 224), ("layer4", "layer3"))
    gradient = forward.head("layer4").gradient(
        forward.activation("layer4"), Targets(torch.tensor([0]), torch.tensor([3]))
    )
    assert gradient.shape == (1, 2048, 7, 7)
    torch.testing.assert_close(forward.head("layer4")(forward.activation("layer4")), forward.logits)
