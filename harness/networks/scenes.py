"""The networks of the embedded benchmark: about 30 million multiply-adds and 0.2 to 0.3 million weights each.

Input [B,3,64,64], normalised with MEAN and STD; output [B,classes] logits, one sigmoid a class. Their last
convolutions, and the transformer's tokens, see 8x8 cells of 8 px, so that class-activation maps can point within a
few pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)
CLASSES = 11


def _conv_relu(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]


class ScenesVGG(nn.Module):
    """VGG-like: convolutions with biases, max-pools and a fully connected head; no normalisation layers."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_conv_relu(3, 16),
            nn.MaxPool2d(2),
            *_conv_relu(16, 32),
            nn.MaxPool2d(2),
            *_conv_relu(32, 64),
            *_conv_relu(64, 64),
            nn.MaxPool2d(2),
            *_conv_relu(64, 96),
            *_conv_relu(96, 96),
            nn.MaxPool2d(4),
        )
        self.classifier = nn.Sequential(nn.Linear(96 * 2 * 2, 96), nn.ReLU(), nn.Dropout(0.2), nn.Linear(96, classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(images), 1))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch-norm and an identity (or a 1x1 projection where the shape changes)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class ScenesResNet(nn.Module):
    """ResNet-like: a stem, three stages of basic blocks, global average pooling and one linear layer."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 24, 5, 2, 2, bias=False)
        self.bn1 = nn.BatchNorm2d(24)
        self.relu = nn.ReLU()
        self.layer1 = nn.Sequential(BasicBlock(24, 24, 1))
        self.layer2 = nn.Sequential(BasicBlock(24, 48, 2))
        self.layer3 = nn.Sequential(BasicBlock(48, 96, 2))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(96, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class Attention(nn.Module):
    """Self-attention of several heads: each reads a token's `width` channels as queries, keys and values of its own."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key = self._split(self.query(tokens)), self._split(self.key(tokens))
        mixed = F.scaled_dot_product_attention(query, key, self._split(self.value(tokens)))  # [B,heads,N,width / heads]
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)


class EncoderBlock(nn.Module):
    """Attention between tokens, then a perceptron on each; both read normalised tokens and add to them (pre-norm)."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class Tokens(nn.Module):
    """Maps [B,C,H,W] to tokens [B,1 + H * W,C]: the class token, then the cells row by row, learned positions added."""

    def __init__(self, width: int, cells: int) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, 1 + cells, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.class_token, std=0.02)
        nn.init.normal_(self.positions, std=0.02)

    def forward(self, maps: Tensor) -> Tensor:
        grid = maps.flatten(2).transpose(1, 2)
        first = self.class_token.expand(grid.shape[0], -1, -1)
        return torch.cat([first, grid], 1) + self.positions


class ScenesViT(nn.Module):
    """ViT-like: convolutions make one token of each 8x8 px, pre-norm blocks follow, and the class token is read.

    Four small convolutions stand where ViT has one of 8x8 px ("early convolutions", Xiao et al. 2021): images are few.
    """

    def __init__(
        self, classes: int = CLASSES, width: int = 80, heads: int = 4, depth: int = 4, hidden: int = 160
    ) -> None:
        super().__init__()
        self.patches = nn.Sequential(
            *_conv_relu(3, 16),
            nn.MaxPool2d(2),
            *_conv_relu(16, 32),
            nn.MaxPool2d(2),
            *_conv_relu(32, 64),
            nn.MaxPool2d(2),
            nn.Conv2d(64, width, 3, padding=1),
        )
        self.tokens = Tokens(width, 8 * 8)
        self.blocks = nn.Sequential(*(EncoderBlock(width, heads, hidden) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.blocks(self.tokens(self.patches(images)))
        return self.head(self.norm(tokens[:, 0]))
