"""Class-activation maps of a real network on real images, against pytorch-grad-cam's in ../shared/golden."""

from pathlib import Path

import numpy as np
import pytest
import torch
from assay.harness.forward import ForwardPass
from assay.harness.heads import Targets
from assay.harness.networks.loading import torchvision_network
from assay.methods.attribution.cam import ChannelWeighting, GradCAM
from assay.methods.attribution.cam_ablation import AblationCAM
from assay.methods.attribution.cam_gradient import GradCAMpp, XGradCAM
from assay.methods.attribution.lift import LiftCAM
from assay.methods.attribution.score_cam import ScoreCAM
from conftest import assert_close, sample_rng
from torch import Tensor

SHARED = Path(__file__).resolve().parents[3].parent / "shared"
ARRAYS, WEIGHTS = SHARED / "golden/resnet50_real.npz", SHARED / "weights/imagenet-resnet50.safetensors"

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not ARRAYS.is_file() or not WEIGHTS.is_file(), reason=f"no {ARRAYS} and {WEIGHTS}"),
]


@pytest.fixture(scope="module")
def arrays() -> dict[str, Tensor]:
    """Two images 224x224, already normalised, with the reference's weights and maps."""
    with np.load(ARRAYS, allow_pickle=False) as file:
        return {name: torch.from_numpy(file[name]) for name in file if file[name].dtype.kind in "fi"}


@pytest.fixture(scope="module")
def forward(arrays: dict[str, Tensor]) -> ForwardPass:
    """ResNet-50 on the two images."""
    network = torchvision_network("resnet50", weights=str(WEIGHTS), mean=(0, 0, 0), std=(1, 1, 1))
    return ForwardPass(network, arrays["x"], ("layer4",), max_rows=24)


@pytest.fixture(scope="module")
def targets(arrays: dict[str, Tensor]) -> Targets:
    """Their predicted classes."""
    return Targets(torch.arange(2), arrays["predicted_class"].long())


@pytest.mark.parametrize(
    ("name", "make", "tolerance"),
    [
        ("gradcam", GradCAM, 1e-5),
        ("gradcampp", GradCAMpp, 1e-5),
        ("xgradcam", XGradCAM, 1e-5),
        ("ablationcam", AblationCAM, 1e-5),
    ],
)
def test_resnet50(
    name: str,
    make: type[ChannelWeighting],
    tolerance: float,
    arrays: dict[str, Tensor],
    forward: ForwardPass,
    targets: Targets,
) -> None:
    """Weights and raw maps; float32, 1e-5. (Ablation-CAM's differences of two logits: ours in closed form.)"""
    result = make("layer4", signed=True).attribute(forward, targets, sample_rng(targets, 2))
    assert result.coefficients is not None
    assert_close(forward.logits.gather(1, targets.label[:, None]), arrays["predicted_logit"][:, None], 1e-5)
    assert_close(result.coefficients, arrays[f"{name}.layer4.weights"], tolerance)
    assert_close(result.values, arrays[f"{name}.layer4.raw"], tolerance)


def test_lift_cam_is_ablation_cam_times_the_logit(
    arrays: dict[str, Tensor], forward: ForwardPass, targets: Targets
) -> None:
    """The head is linear; float32, 1e-5."""
    result = LiftCAM("layer4").attribute(forward, targets, sample_rng(targets, 2)).coefficients
    assert result is not None
    assert_close(result, arrays["ablationcam.layer4.weights"] * arrays["predicted_logit"][:, None], 1e-5)


def test_score_cam_on_some_channels(arrays: dict[str, Tensor], forward: ForwardPass, targets: Targets) -> None:
    """Weights are a softmax over 2048 channels, so that logs of ratios are differences of logits: twelve channels an
    image against the first of them, 1e-4 of the logit."""
    method = ScoreCAM("layer4", variant="paper", align_corners=True)
    channels = torch.arange(0, 2048, 180)
    for image in range(2):
        rows = torch.stack([torch.full_like(channels, image), channels], 1)
        with torch.no_grad():
            found = method.outputs(forward, forward.activation("layer4"), rows)[:, targets.label[image]]
        expected = arrays["scorecam.layer4.weights"][image, channels].log()
        difference = (found - found[0]) - (expected - expected[0])
        assert difference.abs().max() < 1e-4 * float(arrays["predicted_logit"][image])
