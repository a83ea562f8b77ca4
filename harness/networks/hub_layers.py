"""Which layers of a published network methods read by default: found in the paths of its modules, kind by kind."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from torch import nn


class Kind(NamedTuple):
    """A kind of network. has: a path that it has. target: of the layers that class-activation maps may read; the last
    one is taken, and the one before it where excitation backprop stops, unless `is_alone`. end: of what the last layer
    reads."""

    has: str
    target: str
    end: str
    is_alone: bool = False


POOLED = r"(.*\.)?(global_pool|pooler|avgpool)|head\.norm"  # ConvNeXt of timm normalises what is pooled
NORMED = r"((?!.*attn).*\.)?(norm|fc_norm|layernorm|layer_norm|post_layernorm)"  # of no attention, nor its pooling
STAGE = r"(.*\.)?(stages|layers)\.\d+"
ATTENDED = r"(.*\.)?(layers?|blocks)\.\d+\.(layernorm_before|layer_norm1|norm1)"  # what an attention reads
KINDS = (  # the first that fits
    Kind(rf"{STAGE}\.blocks\.\d+\..*", STAGE, POOLED),  # Swin, timm's ConvNeXt: blocks in stages
    Kind(ATTENDED, ATTENDED, NORMED, is_alone=True),
    Kind(r"(.*\.)?stages\.\d+", r"(.*\.)?stages\.\d+", POOLED),  # ConvNeXt and ResNet of Hugging Face
    Kind(r"layer4", r"layer\d", POOLED),  # ResNets of timm
)


def places_of(module: nn.Module) -> dict[str, str]:
    """`auto.target`, `auto.saliency` and `auto.contrast` with a module's layers; none of a kind that is not known."""
    paths = [path for path, each in module.named_modules() if not isinstance(each, nn.Identity)]
    kind = next((kind for kind in KINDS if any(_matching(paths, kind.has))), None)
    if kind is None:
        return {}
    targets, ends = list(_matching(paths, kind.target)), list(_matching(paths, kind.end))
    before = targets[-1] if kind.is_alone or len(targets) < 2 else targets[-2]
    found = {"auto.target": targets[-1], "auto.saliency": before}
    return found | ({"auto.contrast": ends[-1]} if ends else {})


def _matching(paths: list[str], pattern: str) -> Iterator[str]:
    return (path for path in paths if re.fullmatch(pattern, path))
