"""The embedded networks: size, traceability, and what the shipped weights achieve."""

from pathlib import Path

import pytest
import torch
from assay.datasets.scenes import Scenes
from assay.harness.networks.loading import scenes_network
from assay.harness.networks.scenes import CLASSES, MEAN, STD, Attention, ScenesResNet, ScenesVGG, ScenesViT
from safetensors.torch import load_file
from torch import nn

WEIGHTS = Path(__file__).parents[3] / "harness" / "networks" / "embedded"
NETWORKS: dict[str, type[nn.Module]] = {
    "scenes_vgg": ScenesVGG,
    "scenes_resnet": ScenesResNet,
    "scenes_vit": ScenesViT,
}
SHAPE_CLASSES = 10


def shipped(name: str) -> nn.Module:
    network = NETWORKS[name]()
    network.load_state_dict(load_file(WEIGHTS / f"{name}.safetensors"))  # copied into float32 parameters
    return network.eval()


def shape_accuracy(network: nn.Module, dataset: Scenes) -> float:
    """Arg-max over the ten shapes on single-object images."""
    samples = [dataset[i] for i in range(len(dataset))]
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    with torch.no_grad():
        logits = network((torch.stack([s.image for s in samples]) - mean) / std)[:, :SHAPE_CLASSES]
    labels = torch.tensor([s.targets[0] for s in samples])
    return (logits.argmax(1) == labels).float().mean().item()


@pytest.mark.parametrize("name", NETWORKS)
def test_traces_to_the_same_logits(name: str) -> None:
    network, images = NETWORKS[name]().eval(), torch.randn(2, 3, 64, 64)
    logits = network(images)
    assert logits.shape == (2, CLASSES)
    assert torch.equal(torch.fx.symbolic_trace(network)(images), logits)


@pytest.mark.parametrize(("name", "layer"), [("scenes_vgg", "features.14"), ("scenes_resnet", "layer3")])
def test_last_convolutional_map_has_8_px_cells(name: str, layer: str) -> None:
    network, shapes = NETWORKS[name]().eval(), []
    network.get_submodule(layer).register_forward_hook(lambda module, args, output: shapes.append(output.shape))
    network(torch.randn(1, 3, 64, 64))
    assert shapes == [(1, 96, 8, 8)]


def test_a_token_is_a_cell_of_8_px() -> None:
    """65 of 80 channels; a changed pixel at row 34 and column 2 changes the tokens of its cell (row 4 of 8,
    column 0) and of neighbours (a token sees 15 px more each way), not the class token, which comes first."""
    network, images = scenes_network("ScenesViT", None).module, torch.zeros(2, 3, 64, 64)
    assert isinstance(network, ScenesViT)
    images[1, :, 34, 2] = 1
    with torch.no_grad():
        before, after = network.tokens(network.patches(images))
    changed = (before != after).any(1)
    rows, columns = changed[1:].view(8, 8).nonzero(as_tuple=True)
    assert before.shape == (1 + 8 * 8, 80) and not changed[0]
    assert changed[1 + 4 * 8] and set(rows.tolist()) <= set(range(2, 7)) and set(columns.tolist()) <= {0, 1, 2}


def test_attention_is_torchs() -> None:
    """`nn.MultiheadAttention` with the same weights, 2 images of 5 tokens, 4 heads: 1e-6 in float32."""
    ours, theirs = Attention(16, 4), nn.MultiheadAttention(16, 4, batch_first=True)
    parts = [ours.query, ours.key, ours.value]
    theirs.load_state_dict(
        {
            "in_proj_weight": torch.cat([part.weight for part in parts]),
            "in_proj_bias": torch.cat([part.bias for part in parts]),
            "out_proj.weight": ours.out.weight,
            "out_proj.bias": ours.out.bias,
        }
    )
    tokens = torch.randn(2, 5, 16)
    torch.testing.assert_close(ours(tokens), theirs(tokens, tokens, tokens)[0], atol=1e-6, rtol=0)


def test_shipped_weights_stay_within_a_megabyte_and_a_half() -> None:
    assert sum((WEIGHTS / f"{name}.safetensors").stat().st_size for name in NETWORKS) <= 1_500_000


@pytest.mark.parametrize("name", NETWORKS)
def test_shipped_weights_recognise_scenes(name: str) -> None:
    assert shape_accuracy(shipped(name), Scenes("test", 200, objects=(1, 1))) >= 0.95


@pytest.mark.parametrize("name", NETWORKS)
def test_hard_scenes_leave_errors_to_detect(name: str) -> None:
    assert 0.75 <= shape_accuracy(shipped(name), Scenes("test", 300, objects=(1, 1), hard=True)) <= 0.93
