"""The CIFAR networks of the detection papers: input [B,3,32,32], output [B,classes] logits.

ResNet-20 and -56 are those of He et al. 2016, section 4.2, with parameter-free (option A) shortcuts; the
DenseNet-BC is that of Huang et al. 2017 with depth 100 and growth 12, the network of the DICE and LINe tables; the
ResNet-18 is ImageNet's with a first convolution of 3x3 at full size, the network of OpenOOD's.
State-dict names are those of the published checkpoints (akamaster's ResNets, DICE's DenseNet, OpenOOD's ResNet-18),
and every ReLU is a module of its own, so that each has a layer name.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)


class OptionAShortcut(nn.Module):
    """Every second row and column, and zeros for the channels that the input lacks, half on either side."""

    def __init__(self, added: int) -> None:
        super().__init__()
        self.added = added

    def forward(self, x: Tensor) -> Tensor:
        half = self.added // 2
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, half, self.added - half))


class CifarBasicBlock(nn.Module):
    """Two 3x3 convolutions with batch-norm and a shortcut without parameters."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu1 = _conv3x3(inputs, outputs, stride), nn.BatchNorm2d(outputs), nn.ReLU()
        self.conv2, self.bn2, self.relu2 = _conv3x3(outputs, outputs), nn.BatchNorm2d(outputs), nn.ReLU()
        self.shortcut = OptionAShortcut(outputs - inputs) if stride != 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(out)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """ResNet of depth 6n+2: three stages of n basic blocks with 16, 32 and 64 channels at 32, 16 and 8 cells a side.

    Raises ValueError unless the depth is 6n+2.
    """

    def __init__(self, depth: int, classes: int = 10) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth={depth} is not 6n+2 with n >= 1")
        self.conv1, self.bn1, self.relu = _conv3x3(3, 16), nn.BatchNorm2d(16), nn.ReLU()
        self.layer1 = self._stage(16, 16, blocks, 1)
        self.layer2 = self._stage(16, 32, blocks, 2)
        self.layer3 = self._stage(32, 64, blocks, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, classes)

    @staticmethod
    def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
        rest = [CifarBasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)]
        return nn.Sequential(CifarBasicBlock(inputs, outputs, stride), *rest)

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(torch.flatten(self.avgpool(x), 1))


class WideBasicBlock(nn.Module):
    """Two 3x3 convolutions with batch-norm; where the size changes the shortcut is a 1x1 convolution with one."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu1 = _conv3x3(inputs, outputs, stride), nn.BatchNorm2d(outputs), nn.ReLU()
        self.conv2, self.bn2, self.relu2 = _conv3x3(outputs, outputs), nn.BatchNorm2d(outputs), nn.ReLU()
        projection = (nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut = nn.Sequential(*(projection if stride != 1 else ()))

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(out)) + self.shortcut(x))


class CifarResNet18(nn.Module):
    """Four stages of two blocks with 64, 128, 256 and 512 channels at 32, 16, 8 and 4 cells a side."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = _conv3x3(3, 64), nn.BatchNorm2d(64), nn.ReLU()
        self.layer1, self.layer2 = self._stage(64, 64, 1), self._stage(64, 128, 2)
        self.layer3, self.layer4 = self._stage(128, 256, 2), self._stage(256, 512, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512, classes)

    @staticmethod
    def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        return nn.Sequential(WideBasicBlock(inputs, outputs, stride), WideBasicBlock(outputs, outputs, 1))

    def forward(self, images: Tensor) -> Tensor:
        x = self.layer1(self.relu(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class DenseBottleneck(nn.Module):
    """Batch-norm, ReLU, 1x1 convolution to 4 x growth; the same with 3x3 to growth; the input put in front."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.bn1, self.relu1 = nn.BatchNorm2d(inputs), nn.ReLU()
        self.conv1 = nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.bn2, self.relu2 = nn.BatchNorm2d(4 * growth), nn.ReLU()
        self.conv2 = _conv3x3(4 * growth, growth)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(self.relu1(self.bn1(x)))
        return torch.cat([x, self.conv2(self.relu2(self.bn2(out)))], 1)


class DenseStage(nn.Module):
    """Bottlenecks one after the other: `growth` more channels each."""

    def __init__(self, inputs: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(*(DenseBottleneck(inputs + i * growth, growth) for i in range(layers)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Transition(nn.Module):
    """Batch-norm, ReLU, 1x1 convolution to fewer channels, 2x2 average pool."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.bn1, self.relu, self.conv1 = nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, outputs, 1, bias=False)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.conv1(self.relu(self.bn1(x))))


class CifarDenseNetBC(nn.Module):
    """DenseNet-BC with compression 1/2: three dense stages of (depth - 4) / 6 bottlenecks.

    Raises ValueError unless the depth is 6n+4.
    """

    def __init__(self, depth: int = 100, growth: int = 12, classes: int = 10) -> None:
        super().__init__()
        layers, rest = divmod(depth - 4, 6)
        if rest or layers < 1:
            raise ValueError(f"depth={depth} is not 6n+4 with n >= 1")
        first = 2 * growth
        second = (first + layers * growth) // 2
        third = (second + layers * growth) // 2
        last = third + layers * growth
        self.conv1 = _conv3x3(3, first)
        self.block1, self.trans1 = DenseStage(first, growth, layers), Transition(first + layers * growth, second)
        self.block2, self.trans2 = DenseStage(second, growth, layers), Transition(second + layers * growth, third)
        self.block3 = DenseStage(third, growth, layers)
        self.bn1, self.relu = nn.BatchNorm2d(last), nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(last, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.trans2(self.block2(self.trans1(self.block1(self.conv1(images)))))
        x = self.relu(self.bn1(self.block3(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))


ARCHITECTURES: dict[str, Callable[[int], nn.Module]] = {
    "resnet20": lambda classes: CifarResNet(20, classes),
    "resnet56": lambda classes: CifarResNet(56, classes),
    "resnet18": CifarResNet18,
    "densenet_bc100": lambda classes: CifarDenseNetBC(100, 12, classes),
}
