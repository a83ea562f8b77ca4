"""Every relevance method, as its config says, on the networks of conf/model with random weights: it finds its layers.

The maps of random weights say nothing; that they are finite and have the right shape says that layers, operations and
rules fit together.
"""

import pytest
import torch
from assay.harness.build import build
from assay.harness.config import CONF
from assay.harness.heads import Targets
from assay.harness.overrides import compose_config
from conftest import forward_pass, random_images, sample_rng

pytestmark = pytest.mark.filterwarnings("ignore:The default weight initialization")
METHODS = sorted(
    path.stem
    for path in (CONF / "method").glob("*.yaml")
    if "_target_: assay.methods.attribution.relevance." in (text := path.read_text())
    and ".patterns." not in text  # of ReLU networks alone, and fitted: test_patterns.py
)
SIDES = {"inception_v3": 96, "vgg16_voc07": 224, "resnet50_voc07": 224, "vgg16_coco14": 224, "resnet50_coco14": 224}
NORMED = {  # layer-norms and attention, of which most rules of relevance say nothing: test_attnlrp.py
    *("convnext_tiny", "maxvit_t", "scenes_vit", "swin_t", "swin_v2_t", "vit_b_16", "vit_b_32"),
}
PRESETS = sorted(
    path.stem
    for path in (CONF / "model").glob("*.yaml")
    if path.stem not in {"timm", "huggingface", *NORMED} and not path.stem.endswith(("_voc", "_coco", "_coco14"))
)
QUICK = {"scenes_vgg", "scenes_resnet", "cifar_resnet20", "squeezenet1_1", "resnet18"}


@pytest.mark.parametrize(
    "preset", [pytest.param(p, marks=[] if p in QUICK else [pytest.mark.slow]) for p in [*PRESETS, "resnet50_coco"]]
)
def test_every_method_explains_every_preset(preset: str) -> None:
    """Ten configs, one image, two classes; float32."""
    weights = "model.network.weights" if preset.endswith("_coco") else "model.weights"
    choices = [f"model={preset}", f"{weights}=null", f"method=[{','.join(METHODS)}]"]
    config = compose_config(choices)
    network = build(config.model)
    cifar = 32 if preset.startswith("cifar") else 64
    images = random_images(1, SIDES.get(preset, cifar))
    for name in METHODS:
        method = build(config.method[name])
        forward = forward_pass(network, images, method)
        targets = network.outputs_of(Targets(torch.tensor([0, 0]), torch.tensor([2, 4])), forward.logits)
        values = method.attribute(forward, targets, sample_rng(targets, 1)).values
        assert values.ndim == 3, name
        assert len(values) == 2, name
        assert values.isfinite().all(), name
        assert (values.abs().amax((1, 2)) > 0).all(), name


def test_all_relevance_configs_are_known() -> None:
    """The names that DESIGN.md fixes."""
    expected = "contrastive_eb contrastive_lrp deep_taylor excitation_backprop gradient_hedge lrp_alpha1beta0"
    assert set(METHODS) >= {*expected.split(), *["lrp_alpha2beta1", "lrp_epsilon", "lrp_gamma", "rap"]}


@pytest.mark.parametrize(
    "override",
    [
        "method.lrp_epsilon.first={_target_: assay.methods.attribution.relevance.rules.ZBox}",
        "+method.lrp_epsilon.layers={features.*: {_target_: assay.methods.attribution.relevance.rules.Gamma}}",
        "+method.lrp_epsilon.dense={_target_: assay.methods.attribution.relevance.rules.Epsilon}",
        "method.lrp_epsilon.rule.epsilon=0.25",
    ],
)
def test_composites_by_override(override: str) -> None:
    """What docs/methods/relevance.md shows builds."""
    config = compose_config(["method=[lrp_epsilon]", override])
    build(config.method["lrp_epsilon"])
