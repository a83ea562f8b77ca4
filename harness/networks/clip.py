"""CLIP as a classifier of any classes: images beside given embeddings of texts, one a class (Radford et al. 2021).

The logits are `logits_per_image` of the CLIP model: cosines of image and texts, times the learned scale. Of the model
the image tower runs alone; texts were embedded beforehand, once.
"""

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..choices import check_choice
from .hub import HubNetwork, imported, loaded_by, preprocessing_of, whole
from .loading import _seeded
from .weights import find_weights

TEXT = "text"  # the entry of a file that holds several


class ZeroShot(nn.Module):
    """Logits [B,C] of images [B,3,H,W]: the last layer's weights are unit embeddings of the texts times the scale."""

    def __init__(self, clip: Any, text: Tensor) -> None:
        super().__init__()
        self.vision_model, self.visual_projection = clip.vision_model, clip.visual_projection
        self.classes = nn.Linear(text.shape[1], len(text), bias=False)
        scale = clip.logit_scale.detach().double().exp()
        self.classes.weight.data = (scale * F.normalize(text.double(), dim=-1)).to(self.visual_projection.weight)

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.vision_model(pixel_values=images).pooler_output
        embedded = self.visual_projection(pooled)
        unit = F.rms_norm(embedded, embedded.shape[-1:], eps=0.0) / embedded.shape[-1] ** 0.5  # which has rules
        return self.classes(unit)


def clip_network(
    repository: str,
    text: str | None,
    names: Sequence[str] | str | None,
    revision: str = "main",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    weights: str | None = "saved",
    download: bool = False,
) -> HubNetwork:
    """A zero-shot classifier of a CLIP model of Hugging Face.

    Args:
        repository: as in `hf_network`: a folder, or a name whose files are in the cache.
        text: a file of embeddings [C,D], one row a class: .safetensors, .npy, or .pt with a tensor; of several
            entries `text` is read. Rows are made unit vectors here.
        names: of the classes in the order of the rows: a list, or a text file with one a line. They must be the data
            set's, or another class' logit would be read as this one's.
        revision, mean, std, weights, download: as in `hf_network`.

    Raises:
        ValueError: embeddings that are no such rows, or of another width than the projection; other names than rows.
    """
    if text is None or names is None:
        raise ValueError(
            "text and names say the classes: model.text=FILE has an embedding a class (.safetensors, .npy, .pt), "
            "model.names=FILE a name a line; docs/how-to/own-model.md has the lines that make them"
        )
    transformers = imported("transformers")
    check_choice("weights", weights or "null", ("saved", "null"))
    options = {"revision": revision, "trust_remote_code": False, "local_files_only": not download}
    if weights is None:
        config = loaded_by(repository, transformers.CLIPConfig.from_pretrained)(**options)
        model = _seeded(lambda: transformers.CLIPModel(config))
    else:
        model = whole(repository, loaded_by(repository, transformers.CLIPModel.from_pretrained), options, "text_")
    embedded = read_embeddings(text, model.visual_projection.out_features)
    module = ZeroShot(model, embedded)
    preprocessing = preprocessing_of(transformers, repository, options, model, mean, std)
    network = HubNetwork(module, preprocessing, "softmax", model.config.to_dict())
    network.classes = _names(names, len(embedded), text)
    return network


def read_embeddings(text: str, width: int) -> Tensor:
    """Embeddings [C,D] of a file; ValueError where they are no rows of `width` numbers."""
    path = find_weights(text) if Path(text).suffix != ".npy" else _found(text)
    values = _read(path)
    if values.ndim != 2 or values.shape[1] != width or len(values) < 2:
        raise ValueError(
            f"text={text!r} holds {list(values.shape)}: give one row of {width} numbers a class, of two classes or "
            "more: what text_projection of the same CLIP model gives"
        )
    if not values.isfinite().all() or (values.norm(dim=1) == 0).any():
        raise ValueError(f"text={text!r}: a row is zero, or not finite")
    return values


def _found(text: str) -> Path:
    if not (path := Path(text).expanduser()).is_file():
        raise FileNotFoundError(
            f"text={text!r} is no file: docs/how-to/own-model.md has the five lines that embed your classes"
        )
    return path


def _read(path: Path) -> Tensor:
    """The file's only tensor, or its entry `text`; no code of the file's runs."""
    try:
        if path.suffix == ".npy":
            return torch.from_numpy(np.load(path, allow_pickle=False))
        read: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(f"{path} is no file of tensors that can be read safely ({error})") from error
    entries = read if isinstance(read, dict) else {TEXT: read}
    value = next(iter(entries.values())) if len(entries) == 1 else entries.get(TEXT)
    if not isinstance(value, Tensor):
        raise ValueError(
            f"{path} has {json.dumps(sorted(map(str, entries)))[:200]}: give one tensor, or one named text"
        )
    return value


def _names(names: Sequence[str] | str, count: int, text: str) -> list[str]:
    """One a row."""
    lines = Path(names).read_text().splitlines() if isinstance(names, str) else names
    found = [str(line).strip() for line in lines if str(line).strip()]
    if len(found) != count:
        raise ValueError(f"names gives {len(found)} classes, and text={text!r} has {count} rows: give one name a row")
    return found
