"""Small networks that people have, each of a kind that broke something; seeded, in eval mode."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Trunk(nn.Module):
    """Features [B,24] of images [B,channels,H,W]."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(channels, 16, 3, 2, 1), nn.Conv2d(16, 24, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.c2(F.relu(self.c1(x)))).mean((2, 3))


class Ending(nn.Module):
    """A classifier whose logits go through `end`, together with the features."""

    def __init__(self, classes: int, end: Callable[[Tensor, Tensor], Any], channels: int = 3) -> None:
        super().__init__()
        self.trunk, self.fc, self.end = Trunk(channels), nn.Linear(24, classes), end

    def forward(self, x: Tensor) -> Any:
        features = self.trunk(x)
        return self.end(self.fc(features), features)


class BatchStatistics(nn.Module):
    """Batch-norm without running statistics: an image's logits depend on its neighbours."""

    def __init__(self, of_features: bool = False) -> None:
        super().__init__()
        self.trunk, self.fc = Trunk(), nn.Linear(24, 3)
        self.norm = nn.BatchNorm1d(24, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.trunk(x)))


class SpatialStatistics(nn.Module):
    """The same after a convolution, where an image alone has statistics too."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.b, self.fc = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.b(self.c(x))).mean((2, 3)))


class Divided(Ending):
    """Logits that are no numbers where an image is 0."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.trunk(x / x.abs().amax((1, 2, 3), keepdim=True)))


KINDS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: Ending(3, lambda logits, _: logits),
    "tuple": lambda: Ending(3, lambda logits, features: (logits, features)),
    "dict": lambda: Ending(3, lambda logits, features: {"features": features, "logits": logits}),
    "one_logit": lambda: Ending(1, lambda logits, _: logits),
    "one_logit_squeezed": lambda: Ending(1, lambda logits, _: logits[:, 0]),
    "map": lambda: Ending(3, lambda logits, _: logits[:, :, None, None].expand(-1, -1, 2, 2)),
    "softmax": lambda: Ending(3, lambda logits, _: logits.softmax(1)),
    "log_softmax": lambda: Ending(3, lambda logits, _: logits.log_softmax(1)),
    "sigmoid": lambda: Ending(3, lambda logits, _: logits.sigmoid()),
    "dropout": lambda: Ending(3, lambda logits, features: logits + F.dropout(features).sum(1, keepdim=True)),
    "noise": lambda: Ending(3, lambda logits, _: logits + 0.01 * torch.randn_like(logits)),
    "batch_statistics": BatchStatistics,
    "spatial_statistics": SpatialStatistics,
    "divided": lambda: Divided(3, lambda logits, _: logits),
    "grey": lambda: Ending(3, lambda logits, _: logits, channels=1),
}


def field_network(kind: str) -> nn.Module:
    """A network of a kind."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return KINDS[kind]().eval()
