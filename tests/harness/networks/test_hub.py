"""timm and Hugging Face classifiers: with stand-ins for the packages, and for real where they are installed."""

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from assay.harness.networks import hub as hub_models
from assay.harness.networks.hub import hf_network, timm_network
from conftest import ToyModule, alone
from safetensors.torch import save_file
from torch import Tensor, nn

with_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
with_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
)


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A stand-in that knows one model, `toy`; the dict keeps the settings that it was created with."""
    seen: dict[str, Any] = {}

    def create_model(name: str, pretrained: bool, num_classes: int = 2) -> nn.Module:
        seen.update(name=name, pretrained=pretrained)
        if pretrained and seen.get("offline"):
            raise OSError("no route to host")
        module = ToyModule()
        module.fc = nn.Linear(4, num_classes, bias=False) if num_classes != 2 else module.fc
        return module

    config = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "input_size": (3, 1, 2)}
    module = SimpleNamespace(
        __version__="0",
        is_model=lambda name: name == "toy",
        list_models=lambda pattern: ["toy"],
        create_model=create_model,
        data=SimpleNamespace(resolve_model_data_config=lambda model: config),
    )
    monkeypatch.setitem(sys.modules, "timm", module)
    return seen


class Wrapped(nn.Module):
    """What a Hugging Face classifier looks like: keyword input, an output with `logits`."""

    EPSILON = 1e-6

    def __init__(self) -> None:
        super().__init__()
        self.toy, self.config = ToyModule(), SimpleNamespace(to_dict=lambda: {"layer_norm_eps": self.EPSILON})

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.toy(pixel_values), hidden_states=None)


PROCESSOR: dict[str, Any] = {
    "do_normalize": True,
    "image_mean": [0.1, 0.2, 0.3],
    "image_std": [0.4, 0.5, 0.6],
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "size": {"height": 1, "width": 2},
}


@pytest.fixture
def transformers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A stand-in; the dict keeps `model`'s arguments, and its `processor` may be changed."""
    seen: dict[str, Any] = {"processor": dict(PROCESSOR)}

    def load_model(name: str, **settings: Any) -> tuple[nn.Module, dict[str, Any]]:
        seen["model"] = {"name": name, **settings}
        if seen.get("offline"):
            raise OSError("not cached\nand more")
        return Wrapped(), {"missing_keys": seen.get("missing", []), "mismatched_keys": []}

    def load_processor(name: str, **settings: Any) -> SimpleNamespace:
        return SimpleNamespace(to_dict=lambda: dict(seen["processor"]))

    module = SimpleNamespace(
        AutoModelForImageClassification=SimpleNamespace(from_pretrained=load_model),
        AutoImageProcessor=SimpleNamespace(from_pretrained=load_processor),
    )
    monkeypatch.setitem(sys.modules, "transformers", module)
    return seen


def test_what_decides_logits_beside_the_weights_is_in_the_key(
    transformers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A corrected mean of the processor, or another epsilon in config.json, is another network."""
    first = hf_network("toy").fingerprint
    assert hf_network("toy").fingerprint == first
    transformers["processor"]["image_mean"] = [0.1, 0.2, 0.4]
    second = hf_network("toy").fingerprint
    monkeypatch.setattr(Wrapped, "EPSILON", 1e-5)
    assert len({first, second, hf_network("toy").fingerprint}) == 3


def test_weights_that_a_repository_lacks_are_not_drawn(transformers: dict[str, Any]) -> None:
    """As of a backbone that was not fine-tuned: its last layer would be another in each run."""
    transformers["missing"] = ["classifier.weight", "classifier.bias"]
    with pytest.raises(ValueError, match=r"toy has no weights.* of 2 parameters of Wrapped: classifier\.bias, class"):
        hf_network("toy")


# timm


def test_what_decides_outputs_and_weights_is_no_further_argument(timm: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"create has num_classes: outputs are said by model\.classes"):
        timm_network("toy", download=True, create={"num_classes": 10})


def test_timm_gives_its_own_normalisation_and_size(timm: dict[str, Any]) -> None:
    network = timm_network("toy", download=True)
    assert timm == {"name": "toy", "pretrained": True}
    assert network.preprocessing == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), (1, 2))
    assert network.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert network.std.flatten().tolist() == pytest.approx([0.4, 0.5, 0.6])
    assert network(torch.zeros(2, 3, 1, 2)).shape == (2, 2)


def test_the_normalisation_can_be_given(timm: dict[str, Any]) -> None:
    assert timm_network("toy", None, mean=[0, 0, 0], std=[1, 1, 1]).preprocessing.mean == (0, 0, 0)


def test_timm_with_a_file_downloads_nothing(timm: dict[str, Any], tmp_path: Path) -> None:
    state = {name: value + 1 for name, value in ToyModule().state_dict().items()}
    save_file(state, tmp_path / "toy.safetensors")
    network = timm_network("toy", str(tmp_path / "toy.safetensors"))
    assert not timm["pretrained"]
    assert network.module.get_parameter("fc.weight").equal(state["fc.weight"])
    assert network.fingerprint != timm_network("toy", None).fingerprint


def test_timm_takes_the_classes_of_a_file(timm: dict[str, Any], tmp_path: Path) -> None:
    """A fine-tuned head of three; said. Asked for beside pretrained weights: refused."""
    state = ToyModule().state_dict() | {"fc.weight": torch.arange(12.0).view(3, 4)}
    save_file({f"module.{name}": value for name, value in state.items()}, tmp_path / "three.safetensors")
    network = timm_network("toy", str(tmp_path / "three.safetensors"))
    assert network.module.get_parameter("fc.weight").equal(state["fc.weight"])
    assert network.notes == [
        "the prefix 'module.' is taken off all names in three.safetensors",
        "3 classes, as the last layer in three.safetensors has",
    ]
    assert timm_network("toy", None, classes=5)(torch.zeros(1, 3, 1, 2)).shape == (1, 5)
    with pytest.raises(ValueError, match="classes=5: pretrained weights have their own classes"):
        timm_network("toy", classes=5)


def test_timms_unknown_name_and_failed_download(timm: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="architecture='tay' is not in timm 0; near: toy"):
        timm_network("tay")
    timm["offline"] = True
    with pytest.raises(ValueError, match=r"could not get toy \(no route to host\)"):
        timm_network("toy", download=True)


def test_timm_downloads_nothing_unasked(timm: dict[str, Any]) -> None:
    """Neither does it ask for the network: nothing was created."""
    said = (
        r"weights=pretrained of toy would be downloaded: model\.download=true .*hf download timm/toy .*model\.weights="
    )
    with pytest.raises(FileNotFoundError, match=said):
        timm_network("toy")
    assert timm == {}


# Hugging Face


def test_hugging_face_gives_logits_from_safetensors_without_foreign_code(transformers: dict[str, Any]) -> None:
    network = hf_network("some/toy", "abc123")
    asked = {"use_safetensors": True, "revision": "abc123", "trust_remote_code": False, "local_files_only": True}
    asked |= {"output_loading_info": True}
    assert transformers["model"] == {"name": "some/toy", **asked}
    x = torch.randn(2, 3, 1, 2)
    assert network(x).equal(ToyModule()(x))
    assert network.preprocessing == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), (1, 2))


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"size": 224}, (224, 224)),
        ({"size": {"shortest_edge": 224}}, (224, 224)),
        (
            {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 192}},
            (224, 192),
        ),
        ({"size": {"height": 32, "width": 48}, "do_center_crop": False, "crop_size": {"height": 9}}, (32, 48)),
    ],
)
def test_the_size_that_reaches_the_network(
    settings: dict[str, Any], size: tuple[int, int], transformers: dict[str, Any]
) -> None:
    transformers["processor"].update(settings)
    assert hf_network("some/toy").preprocessing.size == size


def test_a_processor_that_does_not_normalise(transformers: dict[str, Any]) -> None:
    transformers["processor"]["do_normalize"] = False
    assert hf_network("some/toy").preprocessing[:2] == ((0, 0, 0), (1, 1, 1))


def test_another_scale_of_pixels_is_refused(transformers: dict[str, Any]) -> None:
    transformers["processor"]["rescale_factor"] = 1 / 127.5
    with pytest.raises(ValueError, match=r"some/toy rescales pixels by 0\.0078"):
        hf_network("some/toy")


def test_hugging_face_downloads_nothing_unasked(transformers: dict[str, Any]) -> None:
    """What is in neither folder nor cache: the command that gets it. A folder: what it lacks."""
    transformers["offline"] = True
    with pytest.raises(ValueError, match=r"could not get some/toy \(not cached\)\. .*hf download some/toy --local-dir"):
        hf_network("some/toy")
    with pytest.raises(ValueError, match=r"could not get \. \(not cached\)\. The folder needs config\.json"):
        hf_network(".")
    transformers.pop("offline")
    hf_network("some/toy", download=True)
    assert not transformers["model"]["local_files_only"]


def test_other_weights_than_the_saved_ones(transformers: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="weights='random': choose one of saved, null"):
        hf_network("some/toy", weights="random")


# Packages


@pytest.mark.parametrize(("package", "load"), [("timm", timm_network), ("transformers", hf_network)])
def test_a_missing_package_names_the_extra(package: str, load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'{package} is needed .*: pip install "\.\[hub\]"'):
        load("toy")


def test_the_packages_are_imported_only_when_asked_for() -> None:
    assert not {"timm", "transformers"} & vars(hub_models).keys()


@pytest.mark.parametrize(
    ("name", "shown"),
    [("timm", "resnet50.a1_in1k"), ("huggingface", "microsoft/resnet-50"), ("clip", "openai/clip-vit-base-patch32")],
)
def test_a_preset_shows_the_model_that_it_names(name: str, shown: str) -> None:
    assert alone("model", name).model.name == shown


@with_timm
def test_a_real_timm_network() -> None:
    network = timm_network("resnet18", None)
    assert network.preprocessing.size == (224, 224)
    network.check_layer("layer4")
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)


@with_transformers
def test_a_real_hugging_face_network(tmp_path: Path) -> None:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=5)
    model = ResNetForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    processor = PROCESSOR | {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 32}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    network = hf_network(str(tmp_path))
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(network(x), model(x).logits)
    assert network.preprocessing == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), (32, 32))
