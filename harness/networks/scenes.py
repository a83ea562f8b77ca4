"""The two networks of the embedded benchmark: about 30 million multiply-adds and 0.2 million weights each.

Input [B,3,64,64], normalised with MEAN and STD; output [B,classes] logits, one sigmoid a class. Their last
convolutions see 8x8 cells of 8 px, so that class-activation maps can point within a few pixels.
"""

import torch
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
