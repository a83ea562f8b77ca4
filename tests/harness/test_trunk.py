"""The layers behind a network's attentions, found in its graph, and the head from the last of them."""

import pytest
import torch
from assay.harness.network import Network
from conftest import random_images
from torch import Tensor, nn
from transformer_toys import Transformer, normal, tiny_transformer


def small_vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(32, 8, 3, 4, 32, 64, num_classes=7).eval()


class Stack(nn.Module):
    """PyTorch's blocks, single nodes of the graph; norms come last, and one more follows."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm, self.head = nn.Conv2d(3, 8, 8, 8), nn.LayerNorm(8), nn.Linear(8, 5)
        self.blocks = nn.ModuleList([nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


@pytest.mark.parametrize(
    ("build", "layers"),
    [
        pytest.param(small_vit, [f"encoder.layers.encoder_layer_{k}" for k in range(3)], id="torchvision"),
        pytest.param(lambda: Transformer("plain"), ["blocks.0", "blocks.1"], id="products"),
        pytest.param(lambda: Transformer("fused", pooled=True, depth=1), ["blocks.0"], id="one_block"),
        pytest.param(Stack, ["blocks.0", "blocks.1"], id="stack"),
    ],
)
def test_layers_are_the_blocks_outputs_and_the_head_gives_the_logits(build: type[nn.Module], layers: list[str]) -> None:
    """Values kept by hooks; the last one's head gives the network's logits, float64, 1e-12."""
    side = 32 if build in (small_vit, Stack) else 16
    network = Network(normal(build()), (0.5,) * 3, (0.25,) * 3).to(dtype=torch.float64)
    inputs, kept = network.normalise(random_images(2, side).double()), list[Tensor]()
    trunk = network.trunk(inputs)
    assert list(trunk.layers) == layers
    last = network.module.get_submodule(layers[-1])
    with last.register_forward_hook(lambda _module, _inputs, output: kept.append(output)):
        expected = network(inputs)
    torch.testing.assert_close(trunk.logits(kept[0]), expected, rtol=0, atol=1e-12)


def test_layers_seen_as_maps_do_not_change_the_trunk() -> None:
    """The block's tokens are a CAM's layer first, which puts two nodes into the other graph."""
    network = tiny_transformer("fused")
    inputs = network.normalise(random_images(2, 16).double())
    network.run(inputs, ("blocks.1",))
    trunk = network.trunk(inputs)
    assert trunk.layers == ("blocks.0", "blocks.1")
    assert trunk.logits(torch.zeros(2, 17, 8).double()).shape == (2, 5)


class Adapted(Stack):
    """A residual layer between the last norm and the head, which looks like a block's end."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)])
        self.adapter = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = self.norm(self.blocks[0](x))
        for _ in range(3):
            x = x + self.adapter(x)
        return self.head(x.mean(1))


def test_a_sum_behind_the_last_block_is_not_taken_for_its_end() -> None:
    network = Network(normal(Adapted()), (0.5,) * 3, (0.25,) * 3)
    with pytest.raises(ValueError, match="behind its last attention are 3 of"):
        network.trunk(network.normalise(random_images(2, 32)))


def test_a_network_without_attention_has_none() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 5))
    with pytest.raises(ValueError, match="its graph shows no attention"):
        Network(module, (0.5,) * 3, (0.25,) * 3).trunk(torch.zeros(1, 3, 3, 3))
