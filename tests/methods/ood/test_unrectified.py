"""Features without a ReLU before them: ViT's, Swin's and ConvNeXt's behind a layer-norm, EfficientNet's behind SiLU."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from assay.harness.detection import Features
from assay.harness.detectors.features import head_of
from assay.harness.forward import ForwardPass
from assay.harness.network import Network
from assay.methods.ood.ash import ASH, SCALE
from assay.methods.ood.dice import DICE
from assay.methods.ood.fdbd import FDBD
from assay.methods.ood.gradnorm import GradNorm
from assay.methods.ood.klm import KLMatching
from assay.methods.ood.knn import KNN
from assay.methods.ood.line import LINe
from assay.methods.ood.logits import energy_score
from assay.methods.ood.nci import NCI
from assay.methods.ood.nnguide import NNGuide
from assay.methods.ood.react import ReAct
from assay.methods.ood.rmd import RMD
from assay.methods.ood.vim import Residual, ViM
from conftest import random_images
from detection_toys import scores_of, training_of
from torch import nn
from torchvision.models import convnext, efficientnet, swin_transformer, vision_transformer

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "vit": lambda: vision_transformer.VisionTransformer(32, 8, 1, 2, 16, 32, num_classes=5),
    "swin": lambda: swin_transformer.SwinTransformer([4, 4], 8, [1, 1], [1, 2], [4, 4], num_classes=5),
    "convnext": lambda: convnext.ConvNeXt(
        [convnext.CNBlockConfig(8, 16, 1), convnext.CNBlockConfig(16, None, 1)], num_classes=5
    ),
    "efficientnet": lambda: efficientnet.EfficientNet(
        [efficientnet.MBConvConfig(1, 3, 1, 8, 8, 1, 0.1, 0.1)], 0.0, num_classes=5
    ),
}
DEFINED: list[Any] = [
    *(ReAct(), DICE(50), LINe(50, 50, 1.0), KNN(5), ViM(5), Residual(5), NNGuide(5)),
    *(FDBD(), GradNorm(), RMD(), KLMatching(), NCI()),
]


@pytest.fixture(scope="module", params=NETWORKS)
def features(request: pytest.FixtureRequest) -> Features:
    """Of 40 random images under random weights, with labels in turn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = NETWORKS[request.param]()
        nn.init.normal_([each for each in module.modules() if isinstance(each, nn.Linear)][-1].weight)  # ViT's is zero
        network = Network(module, (0.5,) * 3, (0.25,) * 3)
    forward = ForwardPass(network, random_images(40, 32), penultimate=True)
    head = head_of(forward)
    assert head is not None
    return Features(forward.logits, torch.arange(40) % 5, forward.penultimate, head=head)


@pytest.mark.parametrize("kind", [ASH, SCALE])
def test_refused_by_name_or_taken_as_they_are(features: Features, kind: Any) -> None:
    with pytest.raises(
        ValueError, match=r"% of these features are negative \(no ReLU before the last layer: ViT, Swin"
    ):
        scores_of(kind(50), features)
    assert scores_of(kind(50, negative="keep"), features).isfinite().all()


@pytest.mark.parametrize("detector", DEFINED, ids=lambda detector: type(detector).__name__)
def test_the_others_are_defined(features: Features, detector: Any) -> None:
    """A finite score for each image, and not one for all."""
    scores = scores_of(detector, features, training_of(features))
    assert scores.isfinite().all()
    assert len(scores.unique()) > 30


def test_react_and_dice_by_their_formulas(features: Features) -> None:
    """One-sided clipping, and contributions with their signs; 1e-5."""
    weight, bias = features.linear_head()
    clipped = energy_score(torch.minimum(features.tap(), torch.tensor(0.1)) @ weight.T + bias)
    assert torch.allclose(scores_of(ReAct(clip=0.1), features), clipped, atol=1e-5)
    contribution = features.tap().mean(0) * weight
    kept = weight * (contribution > contribution.quantile(0.5))
    expected = energy_score(features.tap() @ kept.T + bias)
    assert torch.allclose(scores_of(DICE(50), features, training_of(features)), expected, atol=1e-5)
