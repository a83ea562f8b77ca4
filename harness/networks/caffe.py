"""The pointing game's networks: VGG16 and ResNet-50 fine-tuned on VOC07 and COCO14 (Zhang et al. 2016), in Caffe.

TorchRay published them converted to PyTorch tensors. They differ from torchvision's networks: pools round up
(ceil_mode), ResNet's first convolution has a bias, its max-pool has no padding and the stride of a stage is on
the first 1x1 convolution. They are used fully convolutional: the linear layers slide over the feature map, so
an image of any size gives logits [B,C,h,w]. Layer names are torchvision's.
"""

import re
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

URL = "https://dl.fbaipublicfiles.com/torchray/"

Spatial = Literal["log_mean_exp", "mean"]


class SpatialLogits(nn.Module):
    """One logit a class from the logits f_c(p) at the positions p of the output: [B,C,h,w] -> [B,C].

    log_mean_exp: S_c = log (1/n) Sum_p exp f_c(p). Its gradient is
    dS_c/dx = Sum_p [exp f_c(p) / Sum_q exp f_c(q)] df_c(p)/dx, the softmax-over-space-weighted sum of the
    positions' gradients: exactly what the pointing game starts its backward passes with (TorchRay's
    `get_pointing_gradient`), so every method that explains S_c follows that protocol. At a single position S_c is f_c.
    mean: S_c = (1/n) Sum_p f_c(p), all positions alike.

    Raises ValueError on another choice.
    """

    def __init__(self, choice: Spatial) -> None:
        super().__init__()
        if choice not in ("log_mean_exp", "mean"):
            raise ValueError(f"spatial={choice!r}: choose log_mean_exp or mean")
        self.choice = choice

    def extra_repr(self) -> str:
        """The choice, of which no weights say anything."""
        return self.choice

    def forward(self, logits: Tensor) -> Tensor:
        flat = logits.flatten(2)  # [B,C,n]
        if self.choice == "mean":
            return flat.mean(2)
        return flat.logsumexp(2) - torch.ones_like(flat).sum(2).log()


class CaffeVGG16(nn.Module):
    """VGG16 with fc1 as a 7x7 convolution directly on the features and fc2, fc3 as 1x1 convolutions.

    vgg: torchvision's VGG16, whose features are taken over.
    """

    def __init__(self, vgg: nn.Module, classes: int, spatial: Spatial) -> None:
        super().__init__()
        assert isinstance(vgg.features, nn.Sequential)
        self.features = vgg.features
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                layer.ceil_mode = True
        self.classifier = nn.Sequential(
            nn.Conv2d(512, 4096, 7),
            nn.ReLU(),
            nn.Dropout(),
            nn.Conv2d(4096, 4096, 1),
            nn.ReLU(),
            nn.Dropout(),
            nn.Conv2d(4096, classes, 1),
        )
        self.spatial = SpatialLogits(spatial)

    def forward(self, images: Tensor) -> Tensor:
        return self.spatial(self.classifier(self.features(images)))

    def converted(self, published: dict[str, Tensor]) -> dict[str, Tensor]:
        """A published checkpoint as this module's state dict: no dropout layers in its numbering, BGR input."""
        renamed = {re.sub(r"^classifier\.([24])\.", _after_dropout, name): v for name, v in published.items()}
        return _converted(self, published, renamed)


def _after_dropout(match: re.Match[str]) -> str:
    return {"2": "classifier.3.", "4": "classifier.6."}[match[1]]


class CaffeResNet50(nn.Module):
    """ResNet-50 with Caffe's stem and strides, a 7x7 average pool of stride 1 and fc as a 1x1 convolution.

    resnet: torchvision's ResNet-50, whose stages are taken over.
    """

    def __init__(self, resnet: Any, classes: int, spatial: Spatial) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3)
        self.bn1, self.relu = resnet.bn1, resnet.relu
        self.maxpool = nn.MaxPool2d(3, 2, 0, ceil_mode=True)
        self.layer1, self.layer2, self.layer3, self.layer4 = resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4
        for stage in (resnet.layer2, resnet.layer3, resnet.layer4):
            stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
        self.avgpool = nn.AvgPool2d(7, 1)
        self.fc = nn.Conv2d(2048, classes, 1)
        self.spatial = SpatialLogits(spatial)

    def forward(self, images: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.spatial(self.fc(self.avgpool(x)))

    def converted(self, published: dict[str, Tensor]) -> dict[str, Tensor]:
        """A published checkpoint as this module's state dict.

        Caffe has a batch-norm as two layers, the statistics (`bn1.0.running_mean`) and the scale (`bn1.1.weight`);
        here they are one. The input is BGR there and RGB here.
        """
        renamed: dict[str, Tensor] = {}
        for name, value in published.items():
            merged = re.sub(r"\b(bn\d|downsample\.\d)\.[01]\.(?=\w+$)", r"\1.", name)
            if merged in renamed:
                raise ValueError(f"the checkpoint has {merged} twice: not the published layout of a Caffe ResNet-50")
            renamed[merged] = value
        return _converted(self, published, renamed)


def _converted(module: nn.Module, published: dict[str, Tensor], renamed: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fully connected weights in the shape of the convolutions, and the first layer's channels BGR -> RGB.

    A file in which nothing had to be renamed was saved from a converted network: RGB already.
    """
    shapes = {name: value.shape for name, value in module.state_dict().items()}
    state = {name: _reshaped(value, shapes.get(name)) for name, value in renamed.items()}
    if published.keys() != renamed.keys():
        first = next(name for name, value in module.named_parameters())
        state[first] = state[first].flip(1)
    return state


def _reshaped(value: Tensor, shape: torch.Size | None) -> Tensor:
    """A [N,K] or [N,C,h,w] weight in the module's shape where the two hold as many numbers a row."""
    fits = shape is not None and value.shape[:1] == shape[:1] and value.numel() == shape.numel()
    return value.reshape(shape) if fits and shape is not None else value


CaffeNetwork = CaffeVGG16 | CaffeResNet50
ARCHITECTURES: dict[str, Callable[[Any, int, Spatial], CaffeNetwork]] = {
    "vgg16": CaffeVGG16,
    "resnet50": CaffeResNet50,
}
