"""Which layers methods read of published networks by default: by the paths of their modules."""

import pytest
from assay.harness.networks.hub_layers import places_of
from torch import nn


def having(*paths: str) -> nn.Module:
    """A module with these submodules, in this order."""
    whole = nn.Module()
    for path in paths:
        part = whole
        for name in path.split("."):
            if not hasattr(part, name):
                part.add_module(name, nn.Module())
            part = part.get_submodule(name)
    return whole


VIT = ("model.vit.layers.0.layernorm_before", "model.vit.layers.1.layernorm_before", "model.vit.layernorm")
SWIN = ("layers.0.blocks.0.norm1", "layers.1.blocks.0.norm1", "norm", "head.global_pool")


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (VIT, ("model.vit.layers.1.layernorm_before", "model.vit.layers.1.layernorm_before", "model.vit.layernorm")),
        (("blocks.0.norm1", "blocks.1.norm1", "norm"), ("blocks.1.norm1", "blocks.1.norm1", "norm")),
        (SWIN, ("layers.1", "layers.0", "head.global_pool")),
        (("stages.0.x", "stages.1.x", "pooler"), ("stages.1", "stages.0", "pooler")),
        (("layer1.x", "layer4.0", "global_pool"), ("layer4", "layer1", "global_pool")),
    ],
    ids=["transformer", "timm", "windows", "stages", "resnet"],
)
def test_layers_by_kind(paths: tuple[str, ...], expected: tuple[str, str, str]) -> None:
    """The last one is read, the stage before it is where excitation backprop stops."""
    target, saliency, contrast = expected
    assert places_of(having(*paths)) == {
        "auto.target": target,
        "auto.saliency": saliency,
        "auto.contrast": contrast,
    }


def test_the_last_norm_is_no_placeholder_and_of_no_attention() -> None:
    """timm's average-pooled ViT norms what is pooled, attention pooling has norms in there, and ConvNeXt's head one."""
    blocks = ("blocks.0.norm1", "blocks.1.norm1", "norm")
    pooled = having(*blocks, "fc_norm")
    assert places_of(pooled)["auto.contrast"] == "fc_norm"
    pooled.add_module("fc_norm", nn.Identity())
    assert places_of(pooled)["auto.contrast"] == "norm"
    attending = having("blocks.0.norm1", "blocks.0.attn.norm", "norm", "attn_pool.norm")
    assert places_of(attending)["auto.contrast"] == "norm"
    convnext = having("stages.0.blocks.0.x", "stages.1.blocks.0.x", "head.global_pool", "head.norm")
    assert places_of(convnext)["auto.contrast"] == "head.norm"


def test_an_unknown_kind_has_none() -> None:
    assert places_of(having("features.0", "classifier")) == {}
