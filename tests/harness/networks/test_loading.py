"""Loading weights: the same network whatever file they come from, and nothing but weights from any file."""

import csv
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from assay.harness.config import ROOT
from assay.harness.launch import build_run
from assay.harness.modules import fingerprint
from assay.harness.networks.loading import scenes_network, torchvision_network
from assay.harness.networks.weights import file_sha256, find_weights, load_weights
from assay.harness.overrides import compose_config
from assay.harness.store.identity import data_identity
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

SHARED = ROOT.parent / "shared"


def scenes_state() -> dict[str, Tensor]:
    """A state dict of ScenesResNet that no seed gives."""
    state = scenes_network("ScenesResNet", None).module.state_dict()
    generator = torch.Generator().manual_seed(9)
    drawn = {k: v + torch.rand(v.shape, generator=generator) for k, v in state.items() if v.is_floating_point()}
    return state | drawn


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth", "weights.pt", "wrapped.pth.tar"])
def test_every_file_format_gives_the_same_network(tmp_path: Path, name: str) -> None:
    """Weights and fingerprint equal those saved, exactly; a checkpoint's `state_dict` entry is found."""
    state, path = scenes_state(), tmp_path / name
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if "wrapped" in name else state, path)
    network = scenes_network("ScenesResNet", str(path), file_sha256(path))
    loaded = network.module.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)
    assert network.fingerprint == fingerprint(state)


def test_counters_may_be_absent_and_half_precision_is_widened(tmp_path: Path) -> None:
    """A float16 file without num_batches_tracked loads as float32, equal to its own values exactly."""
    state = {k: v.half() for k, v in scenes_state().items() if not k.endswith("num_batches_tracked")}
    save_file(state, tmp_path / "half.safetensors")
    loaded = scenes_network("ScenesResNet", str(tmp_path / "half.safetensors")).module.state_dict()
    assert all(torch.equal(loaded[key], state[key].float()) for key in state)


def test_fingerprint_covers_every_number_and_nothing_else() -> None:
    """It changes with one weight, a name, a shape or a type; not with order, memory layout or batch counters."""
    state = scenes_state()
    original = fingerprint(state)
    turned = {key: value.clone() for key, value in reversed(state.items())}
    turned["conv1.weight"] = turned["conv1.weight"].to(memory_format=torch.channels_last)
    turned["bn1.num_batches_tracked"] = torch.tensor(77)
    assert fingerprint(turned) == original
    one = {key: value.clone() for key, value in state.items()}
    one["fc.bias"][3] = torch.nextafter(one["fc.bias"][3], torch.tensor(10.0))
    renamed = {("fc.offset" if key == "fc.bias" else key): value for key, value in state.items()}
    reshaped = state | {"fc.bias": state["fc.bias"].view(1, -1)}
    doubled = state | {"fc.bias": state["fc.bias"].double()}
    assert len({original, *map(fingerprint, (one, renamed, reshaped, doubled))}) == 5


def test_random_weights_are_the_same_twice_and_disturb_no_generator() -> None:
    """`weights=null` is one network, exactly, whatever was drawn before; the global generator stays where it was."""
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = scenes_network("ScenesVGG", None)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)
    second = scenes_network("ScenesVGG", None)
    assert first.fingerprint == second.fingerprint != scenes_network("ScenesResNet", None).fingerprint
    assert (
        torchvision_network("squeezenet1_1", None).fingerprint == torchvision_network("squeezenet1_1", None).fingerprint
    )


def test_wrong_sha256_is_refused(tmp_path: Path) -> None:
    """Both digests are shown, and nothing is loaded from the file."""
    path = tmp_path / "weights.safetensors"
    save_file(scenes_state(), path)
    with pytest.raises(ValueError, match=rf"sha256 of .*weights.safetensors is {file_sha256(path)}, expected 0000"):
        scenes_network("ScenesResNet", str(path), "0000")
    found = file_sha256(path)
    scenes_network("ScenesResNet", str(path), found[:8])  # as at the end of published names
    for other in (found[:7], found[:8] + "x", found + "0", ""):
        with pytest.raises(ValueError, match="expected"):
            scenes_network("ScenesResNet", str(path), other)


class Malicious:
    """Unpickled, it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_pickled_program_is_refused(tmp_path: Path) -> None:
    """A .pth file that would run code on loading runs none."""
    torch.save({"fc.weight": Malicious(tmp_path / "owned")}, tmp_path / "bad.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Malicious(tmp_path / "owned"), protocol=2))
    for name in ("bad.pth", "plain.pth"):
        with pytest.raises((ValueError, pickle.UnpicklingError)):
            scenes_network("ScenesVGG", str(tmp_path / name))
    assert not (tmp_path / "owned").exists()
    pickle.loads((tmp_path / "plain.pth").read_bytes())  # noqa: S301  # the trap works
    assert (tmp_path / "owned").exists()


def _state_of(case: str, path: Path) -> Path:
    """A file that is no state dict of ScenesVGG, for the reason in its name."""
    if case == "garbage":
        path = path.with_suffix(".safetensors")
        path.write_bytes(b"these are no weights")
    elif case == "garbage_pth":
        path.write_bytes(b"hello, no weights either")
    elif case == "empty_pth":
        path.write_bytes(b"")
    elif case == "no_weights":
        torch.save({"model": {"fc.weight": torch.zeros(1)}, "epoch": 3}, path)
    elif case == "other_classes":
        state = scenes_network("ScenesVGG", None).module.state_dict()
        torch.save(state | {"classifier.3.weight": torch.zeros(7, 96), "classifier.3.bias": torch.zeros(7)}, path)
    elif case == "pickled":
        torch.save({"fc.weight": Malicious(path.parent / "owned")}, path)
    return path


@pytest.mark.parametrize(
    "case",
    [
        *("garbage", "no_weights", "other_classes", "pickled"),
        "garbage_pth",
        "empty_pth",
    ],
)
def test_unusable_files_are_named(tmp_path: Path, case: str) -> None:
    """Whatever is wrong with a file: a ValueError (which build() shows as one line) that names it."""
    path = _state_of(case, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=path.name):
        scenes_network("ScenesVGG", str(path))


def test_another_architectures_weights_are_refused(tmp_path: Path) -> None:
    """Missing and unexpected names are listed, with the setting to check; a missing name alone is enough."""
    path = tmp_path / "resnet.safetensors"
    save_file(scenes_state(), path)
    with pytest.raises(ValueError, match=r"does not fit ScenesVGG: missing \['features.0.weight'.*'bn1.*architecture"):
        scenes_network("ScenesVGG", str(path))
    state = scenes_state()
    del state["fc.bias"]
    save_file(state, path)
    with pytest.raises(ValueError, match=r"missing \['fc.bias'\], unexpected nothing"):
        scenes_network("ScenesResNet", str(path))
    with pytest.raises(ValueError, match=r"missing nothing, unexpected \['more'\]"):
        save_file(scenes_state() | {"more": torch.zeros(1)}, path)
        scenes_network("ScenesResNet", str(path))


def test_missing_file_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative names are tried in the working directory, then in the checkout; both places are shown."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        scenes_network("ScenesVGG", "nowhere/x.safetensors")
    assert str(tmp_path / "nowhere/x.safetensors") in str(caught.value)
    assert str(ROOT / "nowhere/x.safetensors") in str(caught.value)
    assert "model.weights=" in str(caught.value)
    assert find_weights("harness/config.py") == ROOT / "harness/config.py"


def test_unknown_names_list_the_valid_ones() -> None:
    """Architecture and weights name."""
    with pytest.raises(ValueError, match=r"architecture='ScenesVgg': choose one of ScenesVGG, ScenesResNet"):
        scenes_network("ScenesVgg", None)
    with pytest.raises(ValueError, match=r"architecture='resnet5' is not in torchvision; choose one of .*resnet50"):
        torchvision_network("resnet5", None)
    with pytest.raises(ValueError, match=r"weights='BEST' of alexnet: .*DEFAULT, IMAGENET1K_V1, or null"):
        torchvision_network("alexnet", "BEST")


# Files as training scripts leave them


def finetuned(architecture: str, classes: int) -> nn.Module:
    """A torchvision network with another last layer, in eval mode."""
    from torchvision import models

    torch.manual_seed(4)
    return models.get_model(architecture, weights=None, num_classes=classes).eval()


@pytest.mark.parametrize("architecture", ["resnet18", "squeezenet1_1", "mobilenet_v2"])
def test_the_file_says_how_many_classes_there_are(tmp_path: Path, architecture: str) -> None:
    """A fine-tuned network of three: its logits, bit-equal, and the plan says where the number comes from."""
    module, inputs = finetuned(architecture, 3), torch.randn(2, 3, 64, 64)
    torch.save(module.state_dict(), tmp_path / "three.pth")
    network = torchvision_network(architecture, str(tmp_path / "three.pth"))
    assert torch.equal(network(inputs), module(inputs))
    assert network.notes == ["3 classes, as the last layer in three.pth has"]
    given = torchvision_network(architecture, str(tmp_path / "three.pth"), classes=3)
    assert (given.fingerprint, given.notes) == (network.fingerprint, [])


def test_a_file_with_the_usual_classes_decides_nothing(tmp_path: Path) -> None:
    torch.save(finetuned("squeezenet1_1", 1000).state_dict(), tmp_path / "usual.pth")
    assert torchvision_network("squeezenet1_1", str(tmp_path / "usual.pth")).notes == []


def test_another_shape_than_the_last_layers_is_refused(tmp_path: Path) -> None:
    """Another block or a wider network is no fine-tuned ResNet-18; nor has a file the classes that it does not have."""
    torch.save(finetuned("resnet18", 3).state_dict(), tmp_path / "three.pth")
    with pytest.raises(ValueError, match=r"(?s)three.pth does not fit .*model.classes"):
        torchvision_network("resnet18", str(tmp_path / "three.pth"), classes=4)
    state = finetuned("resnet18", 3).state_dict()
    torch.save(state | {"layer1.0.conv1.weight": torch.zeros(64, 32, 3, 3)}, tmp_path / "wide.pth")
    with pytest.raises(ValueError, match=r"wide.pth does not fit"):
        torchvision_network("resnet18", str(tmp_path / "wide.pth"))


def test_classes_without_a_file() -> None:
    """Of a random network as many as asked for; published weights have their own."""
    assert torchvision_network("squeezenet1_1", None, classes=5)(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
    with pytest.raises(ValueError, match="classes=5: the published weights DEFAULT have their own classes"):
        torchvision_network("squeezenet1_1", classes=5)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod."])
@pytest.mark.parametrize("entry", [None, "state_dict", "model_state_dict", "model", "net"])
def test_what_wrappers_leave_in_a_file_is_taken_off_and_said(tmp_path: Path, prefix: str, entry: str | None) -> None:
    """DataParallel, torch.compile, Lightning and both, under keys of training scripts: the same network, exactly."""
    state = {f"{prefix}{name}": value for name, value in scenes_state().items()}
    torch.save(state if entry is None else {entry: state, "epoch": 3, "optimizer": {}}, tmp_path / "left.pth")
    network = scenes_network("ScenesResNet", str(tmp_path / "left.pth"))
    assert network.fingerprint == fingerprint(scenes_state())
    said = " ".join(network.notes)
    parts = [part + "." for part in prefix.split(".") if part]
    assert len(network.notes) == len(parts) + (entry is not None)
    assert all(f"the prefix {part!r} is taken off all names in left.pth" in said for part in parts)
    assert entry is None or f"read from the entry {entry!r} of left.pth" in said


def test_two_state_dicts_in_a_file_are_not_chosen_from(tmp_path: Path) -> None:
    """A network and its moving average are two networks."""
    torch.save({"model": scenes_state(), "net": scenes_state()}, tmp_path / "two.pth")
    with pytest.raises(ValueError, match=r"two.pth holds no state dict .*; it has several: model, net"):
        scenes_network("ScenesResNet", str(tmp_path / "two.pth"))


def test_names_that_are_the_modules_own_keep_their_prefix(tmp_path: Path) -> None:
    """A module whose parts lie in `model` is no wrapper."""
    own = nn.Sequential()
    own.add_module("model", nn.Linear(2, 3))
    state = {name: value + 1 for name, value in own.state_dict().items()}
    torch.save(state, tmp_path / "own.pth")
    assert load_weights(own, str(tmp_path / "own.pth")) == []
    assert torch.equal(own.get_parameter("model.weight"), state["model.weight"])


def test_the_plan_says_what_was_decided(tmp_path: Path) -> None:
    """In both wings' plans, a line each; `classes: null` leaves keys as they were before there was such a setting."""
    torch.save({"model": finetuned("squeezenet1_1", 11).state_dict()}, tmp_path / "eleven.pth")
    words = ["model=squeezenet1_1", f"model.weights={tmp_path / 'eleven.pth'}", "compute.device=cpu"]
    for wing in (["method=[center]", "metric=[pointing_game]"], ["method=[msp]", "metric=[error_detection]"]):
        described = list(build_run(compose_config([*words, *wing]), tmp_path).describe())
        assert "weights: read from the entry 'model' of eleven.pth" in described
        assert "weights: 11 classes, as the last layer in eleven.pth has" in described
    settings = compose_config(words).model.settings
    assert settings["classes"] is None
    common: dict[str, Any] = {"weights": "w", "dataset": {}, "data": "d", "order": None, "precision": "float32"}
    before = data_identity(model={k: v for k, v in settings.items() if k != "classes"}, **common)
    assert data_identity(model=settings, **common) == before
    assert data_identity(model=settings | {"classes": 11}, **common) != before


def _weights_entry(monkeypatch: pytest.MonkeyPatch, architecture: str, state: dict[str, Tensor]) -> None:
    """Let torchvision's own builder find these weights instead of downloading any."""
    from torchvision import models

    kind = type(models.get_model_weights(architecture).DEFAULT)
    monkeypatch.setattr(kind, "get_state_dict", lambda *_, **__: state)


def test_a_failed_download_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a connection the message gives the setting for a local file."""
    from torchvision import models

    def refuse(*_: Any, **__: Any) -> dict[str, Tensor]:
        raise OSError("no route to host")

    monkeypatch.setattr(type(models.get_model_weights("alexnet").DEFAULT), "get_state_dict", refuse)
    with pytest.raises(
        ValueError, match=r"could not download alexnet .*no route to host.*model.weights=/path/to/alexnet"
    ):
        torchvision_network("alexnet")


def _pretrained(architecture: str) -> nn.Module:
    """Random weights in the form of the architecture's published file, auxiliary heads included."""
    from torchvision import models

    extra: dict[str, Any] = {"init_weights": False} if architecture in ("googlenet", "inception_v3") else {}
    torch.manual_seed(2)
    return models.get_model(architecture, weights=None, **extra)


@pytest.mark.parametrize(
    "architecture",
    [
        "resnet18",
        "googlenet",
        "inception_v3",
    ],
)
def test_a_published_file_and_the_download_are_one_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    """The same state dict through torchvision's builder (no download) and as a local .pth: logits bit-equal.

    And equal fingerprints where the logits are equal, as a cell's key says nothing else about weights.
    """
    state = _pretrained(architecture).state_dict()
    _weights_entry(monkeypatch, architecture, state)
    torch.save(state, tmp_path / "file.pth")
    downloaded = torchvision_network(architecture)
    local = torchvision_network(architecture, str(tmp_path / "file.pth"))
    assert getattr(local.module, "transform_input", None) == getattr(downloaded.module, "transform_input", None)
    assert local.fingerprint == downloaded.fingerprint
    inputs = torch.randn(2, 3, 96, 96)
    assert torch.equal(local(inputs), downloaded(inputs))


def test_load_weights_reaches_every_parameter(tmp_path: Path) -> None:
    """Loading the same file into two differently initialised modules leaves them equal, exactly."""
    torch.manual_seed(0)
    one, other = (nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)) for _ in range(2))
    torch.save(one.state_dict(), tmp_path / "one.pth")
    load_weights(other, str(tmp_path / "one.pth"))
    assert fingerprint(one.state_dict()) == fingerprint(other.state_dict())


@pytest.mark.realdata
def test_resnet50_classifies_photographs() -> None:
    """ImageNet weights on the 19 validation images stored at 224x224: at least 80 % right.

    An end-to-end check of weights, normalisation and class order together; chance is 0.1 %.
    """
    weights, images = SHARED / "weights" / "imagenet-resnet50.safetensors", SHARED / "data" / "imagenet" / "val224"
    if not (weights.is_file() and images.is_dir()):
        pytest.skip(f"needs {weights} and {images}")
    with (SHARED / "data" / "imagenet" / "classes.csv").open(newline="") as file:
        index_of = {row["wnid"]: int(row["index"]) for row in csv.DictReader(file)}
    files = sorted(images.glob("*/*.jpg"))
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in files])
    network = torchvision_network("resnet50", str(weights))
    with torch.no_grad():
        logits = network(network.normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255))
    right = logits.argmax(1) == torch.tensor([index_of[path.parent.name] for path in files])
    assert len(files) == 19
    assert right.float().mean() >= 0.8
