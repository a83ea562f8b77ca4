"""Every conf/model preset builds, and its target layer exists, leads to the logits and is a feature map.

The networks are built on the meta device: shapes without numbers, whatever their size.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torchvision.models  # noqa: F401  # now: importing it on the meta device fails (torch 2.6)
from assay.harness.build import build
from assay.harness.config import CONF, Choice
from assay.harness.networks import loading as models
from conftest import alone
from omegaconf import OmegaConf

PRESETS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
HUB = {"timm", "huggingface", "clip"}  # tests/harness/networks/test_hub.py, test_clip.py
OTHERS = ("_voc", "_coco", "_disconnected")  # readings of another preset: by class groups, by cells
GROUPS = {name for name in PRESETS if name.endswith(OTHERS)}
DESIGN = [
    *(
        "scenes_vgg",
        "scenes_resnet",
        "scenes_vit",
        "vgg16",
        "vgg19",
        "alexnet",
        "resnet18",
        "resnet50",
        "resnet101",
        "densenet121",
    ),
    *("inception_v3", "googlenet", "mobilenet_v2", "squeezenet1_1", "efficientnet_b0"),
    *("vit_b_16", "swin_t", "convnext_tiny"),
    *("cifar_resnet20", "cifar_resnet56", "cifar_densenet_bc100"),
]


class Expected(NamedTuple):
    """Side of the input, shape [K,h,w] of the target layer (of a transformer [N,D]), number of classes."""

    side: int
    shape: tuple[int, ...]
    classes: int = 1000


EXPECTED = {
    "vgg16": Expected(224, (512, 14, 14)),
    "vgg19": Expected(224, (512, 14, 14)),
    "alexnet": Expected(224, (256, 13, 13)),
    "resnet18": Expected(224, (512, 7, 7)),
    "resnet50": Expected(224, (2048, 7, 7)),
    "resnet101": Expected(224, (2048, 7, 7)),
    "densenet121": Expected(224, (1024, 7, 7)),
    "inception_v3": Expected(299, (2048, 8, 8)),
    "googlenet": Expected(224, (1024, 7, 7)),
    "mobilenet_v2": Expected(224, (1280, 7, 7)),
    "squeezenet1_1": Expected(224, (512, 13, 13)),
    "efficientnet_b0": Expected(224, (1280, 7, 7)),
    "vit_b_16": Expected(224, (768, 14, 14)),
    "vit_b_32": Expected(224, (768, 7, 7)),
    "swin_t": Expected(224, (768, 7, 7)),
    "swin_v2_t": Expected(256, (768, 8, 8)),
    "convnext_tiny": Expected(224, (768, 7, 7)),
    "maxvit_t": Expected(224, (512, 7, 7)),
    "cifar_resnet20": Expected(32, (64, 8, 8), 10),
    "cifar_resnet56": Expected(32, (64, 8, 8), 10),
    "cifar_resnet18": Expected(32, (512, 4, 4), 10),
    "cifar_densenet_bc100": Expected(32, (342, 8, 8), 10),
    "vgg16_voc07": Expected(224, (512, 14, 14), 20),
    "vgg16_coco14": Expected(224, (512, 14, 14), 80),
    "resnet50_voc07": Expected(224, (2048, 7, 7), 20),
    "resnet50_coco14": Expected(224, (2048, 7, 7), 80),
    "scenes_vgg": Expected(64, (96, 8, 8), 11),
    "scenes_resnet": Expected(64, (96, 8, 8), 11),
    "scenes_vit": Expected(64, (80, 8, 8), 11),
}


# Networks of which another of the same kind is built in the fast suite.
SIBLINGS = {"vgg19", "resnet101", "vit_b_32", "swin_v2_t", "maxvit_t", "cifar_resnet56"}


def unweighted(name: str) -> Choice:
    """A preset with random weights."""
    preset = alone("model", name).model
    return replace(preset, settings={**preset.settings, "weights": None})


def test_every_model_of_the_design_has_a_preset_and_every_preset_a_test() -> None:
    assert set(DESIGN) <= set(PRESETS)
    assert set(PRESETS) - HUB - GROUPS == set(EXPECTED)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SIBLINGS)) for name in EXPECTED]
)
def test_the_target_layer_is_a_feature_map_that_leads_to_the_logits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "fingerprint", lambda state: "")  # there are no bytes on the meta device
    monkeypatch.setattr("assay.harness.cutting.check_same", lambda *arguments: None)  # nor values to compare
    monkeypatch.setattr("assay.harness.cutting.are_in_order", lambda *arguments: True)
    monkeypatch.setattr("assay.harness.network.frozen", lambda module: module.eval())  # which asks for values
    config = unweighted(name)
    expected = EXPECTED[name]
    with torch.device("meta"):
        network = build(config)
        images = torch.empty(2, 3, expected.side, expected.side)
    network.check_layer(config.notes["target_layer"])
    logits, values = network.run(images, (config.notes["target_layer"],))
    assert logits.shape == (2, expected.classes)
    assert values[config.notes["target_layer"]].activation.shape == (2, *expected.shape)


@pytest.mark.parametrize("name", sorted(set(PRESETS) - HUB))
def test_a_preset_is_named_after_its_file(name: str) -> None:
    assert alone("model", name).model.name == name


@pytest.mark.parametrize("name", sorted(set(EXPECTED) - {"scenes_vgg", "scenes_resnet", "scenes_vit"}))
def test_a_preset_says_on_which_side_of_the_activation_its_layer_lies(name: str) -> None:
    (line,) = re.findall(r"^target_layer: .*", (CONF / "model" / f"{name}.yaml").read_text(), re.MULTILINE)
    assert re.search("post-(ReLU|SiLU)|after its ReLU|# signed", line)


@pytest.mark.parametrize("name", ["squeezenet1_1", "resnet18", "densenet121"])
def test_a_post_relu_layer_has_no_negative_values(name: str) -> None:
    config = unweighted(name)
    network = build(config)
    layer = config.notes["target_layer"]
    values = network.run(torch.randn(1, 3, 64, 64), (layer,))[1][layer].activation
    assert values.min() >= 0
    assert values.max() > 0


def test_densenets_features_are_the_same_place_before_the_relu() -> None:
    network = build(unweighted("densenet121"))
    values = network.run(torch.randn(1, 3, 64, 64), ("features", "relu"))[1]
    assert values["features"].activation.min() < 0
    assert values["features"].activation.relu().equal(values["relu"].activation)


@pytest.mark.parametrize("name", ["vgg16_voc07", "cifar_resnet20"])
def test_weights_are_looked_for_in_one_folder(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ASSAY_WEIGHTS", str(tmp_path))
    file = OmegaConf.to_container(OmegaConf.load(CONF / "model" / f"{name}.yaml"), resolve=True)
    assert isinstance(file, dict)
    weights = file["weights"]
    assert Path(weights).parent == tmp_path
