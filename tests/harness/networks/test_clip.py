"""CLIP as a classifier: its logits beside transformers' own, files of embeddings, names of classes."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from assay.harness.build import build
from assay.harness.config import ConfigError
from assay.harness.engine.probe import probe
from assay.harness.engine.request import Images, Request
from assay.harness.network import Network
from assay.harness.networks.clip import ZeroShot, _names, clip_network, read_embeddings
from assay.harness.overrides import compose_config
from conftest import ToyModule, assert_close
from hub_networks import CLASSES, SIDE, embedded, logits_of, made, saved
from safetensors.torch import save_file
from torch import Tensor, nn

with_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
)
ROWS = torch.arange(1.0, 13).view(3, 4)


def written(folder: Path, kind: str, values: Tensor = ROWS) -> str:
    """A file of embeddings."""
    path = folder / f"text{kind}"
    writers: dict[str, Any] = {
        ".safetensors": lambda: save_file({"text": values, "other": torch.zeros(1)}, path),
        ".npy": lambda: np.save(path, values.numpy()),
        ".pt": lambda: torch.save(values, path),
    }
    writers[kind]()
    return str(path)


@pytest.mark.parametrize("kind", [".safetensors", ".npy", ".pt"])
def test_embeddings_of_three_kinds_of_file(kind: str, tmp_path: Path) -> None:
    assert read_embeddings(written(tmp_path, kind), 4).equal(ROWS)


def test_files_that_are_no_embeddings(tmp_path: Path) -> None:
    """Another width, one class, a row of zeros, several tensors without a name, objects, no file."""
    with pytest.raises(ValueError, match=r"holds \[3, 4\]: give one row of 5 numbers a class"):
        read_embeddings(written(tmp_path, ".npy"), 5)
    with pytest.raises(ValueError, match=r"holds \[1, 4\]"):
        read_embeddings(written(tmp_path, ".npy", ROWS[:1]), 4)
    with pytest.raises(ValueError, match="a row is zero, or not finite"):
        read_embeddings(written(tmp_path, ".npy", ROWS * 0), 4)
    save_file({"a": ROWS, "b": ROWS * 2}, tmp_path / "two.safetensors")
    with pytest.raises(ValueError, match=r'two\.safetensors has \["a", "b"\]: give one tensor, or one named text'):
        read_embeddings(str(tmp_path / "two.safetensors"), 4)
    np.save(tmp_path / "objects.npy", np.array([{}, {}]), allow_pickle=True)
    with pytest.raises(ValueError, match="no file of tensors that can be read safely"):
        read_embeddings(str(tmp_path / "objects.npy"), 4)
    torch.save(ToyModule(), tmp_path / "module.pt")
    with pytest.raises(ValueError, match="no file of tensors that can be read safely"):
        read_embeddings(str(tmp_path / "module.pt"), 4)
    with pytest.raises(FileNotFoundError, match=r"absent\.npy' is no file: docs/how-to/own-model\.md has the"):
        read_embeddings("absent.npy", 4)


def test_a_name_a_row(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("a cat\n\n dog \n")
    assert _names(str(tmp_path / "names.txt"), 2, "f.npy") == _names(["a cat", "dog"], 2, "f.npy") == ["a cat", "dog"]
    with pytest.raises(ValueError, match=r"names gives 2 classes, and text='f\.npy' has 3 rows"):
        _names(["a", "b"], 3, "f.npy")


def test_without_classes_it_is_no_classifier() -> None:
    with pytest.raises(ValueError, match=r"model\.text=FILE has an embedding a class .* model\.names=FILE"):
        clip_network("folder", None, ["a", "b"])


def test_names_are_the_datas(tmp_path: Path) -> None:
    """Case and underscores do not count; another order is refused, of predictions as well: detectors read labels."""
    request = Request.of(compose_config(["limit=6", "method=[center]", "compute.device=cpu"]), tmp_path)
    images = Images.of(request, request.config.dataset, None)
    known = [str(each) for each in images.dataset.classes]
    request.network.classes = [f" {name.upper()} " for name in known]
    probe(request, images)
    request.network.classes = [known[1], known[0], *known[2:]]
    with pytest.raises(ConfigError, match="class 0 is 'disc' in scenes and 'ring' in scenes_vgg: put the rows"):
        probe(request, images)
    request.config.protocol.targets = "top1"
    with pytest.raises(ConfigError, match="class 0 is 'disc'"):
        probe(request, images)


class Pooling(nn.Module):
    def forward(self, pixel_values: Tensor) -> Any:
        return type("Output", (), {"pooler_output": pixel_values})


class Clip(nn.Module):
    """What `ZeroShot` reads of a CLIP model."""

    def __init__(self) -> None:
        super().__init__()
        self.vision_model, self.visual_projection = Pooling(), nn.Linear(2, 2, bias=False)
        self.visual_projection.weight.data = torch.eye(2)
        self.logit_scale = nn.Parameter(torch.tensor(2.0).log())


def test_a_cosine_by_hand() -> None:
    """An image at (3, 4), texts at (2, 0) and (0, -5), scale 2: 2 (3/5, -4/5)."""
    made = ZeroShot(Clip(), torch.tensor([[2.0, 0.0], [0.0, -5.0]]))(torch.tensor([[3.0, 4.0]]))
    torch.testing.assert_close(made, torch.tensor([[1.2, -1.6]]))


@with_transformers
def test_logits_are_those_of_the_clip_model() -> None:
    """`logits_per_image` of transformers' CLIPModel in float64, 1e-12."""
    clip = made("clip").double()
    inputs = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3)).double()
    with torch.no_grad():
        expected = logits_of("clip", clip, inputs)
        assert_close(ZeroShot(clip, embedded(clip))(inputs), expected, 1e-12)
    assert expected.std() > 0.1


@with_transformers
def test_files_make_the_network(tmp_path: Path) -> None:
    """Saved weights, embeddings and names; random weights of the folder's config are others. Float32, 1e-5."""
    clip = made("clip")
    words = saved("clip", clip, tmp_path / "saved", [f"class {k}" for k in range(CLASSES)])
    network: Network = build(compose_config(words).model)
    inputs = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        assert_close(network(inputs), logits_of("clip", clip, inputs), 1e-5)
    assert network.classes is not None and network.classes[3] == "class 3"
    assert network.input_size == (SIDE, SIDE)
    other = build(compose_config([*words, "model.weights=null"]).model)
    assert other.fingerprint != network.fingerprint
    assert other.fingerprint == build(compose_config([*words, "model.weights=null"]).model).fingerprint
