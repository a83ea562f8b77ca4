"""Training: it learns, it repeats, it saves."""

from pathlib import Path

import pytest
import torch
from assay.datasets.scenes import Scenes
from assay.harness.networks.loading import scenes_network
from assay.harness.networks.scenes import MEAN, STD
from assay.harness.networks.train import (
    RECIPES,
    Normalisation,
    TrainingReport,
    mean_average_precision,
    save_weights,
    single_label_accuracy,
    train_embedded,
    train_network,
)
from safetensors.torch import load_file
from torch import nn

NORMALISATION = Normalisation(MEAN, STD)


def tiny_network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=4),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 11),
    )


def train_tiny(seed: int, batch_size: int = 16) -> tuple[nn.Module, TrainingReport]:
    network = tiny_network()
    report = train_network(
        network,
        Scenes("train", 64, cue_share=0.25),
        Scenes("val", 40, cue_share=0.25),
        normalisation=NORMALISATION,
        epochs=4,
        batch_size=batch_size,
        learning_rate=0.02,
        seed=seed,
    )
    return network, report


def test_training_reduces_the_loss() -> None:
    _, report = train_tiny(0)
    assert len(report.losses) == 4 and report.losses[-1] < 0.9 * report.losses[0]
    assert 0 <= report.accuracy <= 1 and 0 < report.mean_ap <= 1


def test_seed_decides_the_weights() -> None:
    (first, _), (again, _), (other, _) = train_tiny(0), train_tiny(0), train_tiny(1)
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)]
    differ = [torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True)]
    assert all(same) and not any(differ)


def test_global_random_state_is_untouched() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    network = tiny_network()
    torch.manual_seed(3)
    train_network(
        network,
        Scenes("train", 8),
        Scenes("val", 8),
        normalisation=NORMALISATION,
        epochs=1,
        batch_size=4,
        learning_rate=0.01,
        seed=0,
    )
    assert torch.equal(torch.rand(1), expected)


def test_batch_larger_than_the_training_set_is_named() -> None:
    with pytest.raises(ValueError, match=r"batch_size=65.*1 to 64"):
        train_tiny(0, batch_size=65)


def test_saved_weights_are_half_precision_and_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = tiny_network()
    checksum = save_weights(network, tmp_path / "new" / "w.safetensors")
    assert checksum in capsys.readouterr().out
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["w.safetensors"]
    state = load_file(tmp_path / "new" / "w.safetensors")
    assert {v.dtype for v in state.values()} == {torch.float16, torch.int64}  # the latter counts batches
    tiny_network().load_state_dict(state)


def test_mean_average_precision_by_hand() -> None:
    labels = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 0]])
    logits = torch.tensor([[3.0, 0, 0], [2, 1, 0], [1, 2, 0]])
    assert mean_average_precision(logits, labels) == pytest.approx(((1 + 2 / 3) / 2 + 1 / 2) / 2)


def test_single_label_accuracy_leaves_out_the_others() -> None:
    labels = torch.tensor([[1.0, 0], [0, 1], [1, 1]])
    assert single_label_accuracy(torch.tensor([[1.0, 0], [1, 0], [1, 0]]), labels) == 0.5


def test_the_embedded_recipe_writes_a_file_that_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`train_embedded` on 64 images and one epoch: the weights file that `scenes_network` then loads. The process
    keeps its number of threads (two of them beside another process take ten times as long)."""
    train_once("scenes_vgg", monkeypatch, tmp_path)
    assert torch.get_num_threads() == 1
    loaded = scenes_network("ScenesVGG", str(tmp_path / "scenes_vgg.safetensors"))
    assert loaded(torch.zeros(1, 3, 64, 64)).shape == (1, 11)


def test_the_transformer_is_trained_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice, whatever was drawn before: every parameter is made anew by the recipe's seed (class token, positions)."""
    for name in ("one", "other"):
        torch.rand(3)
        train_once("scenes_vit", monkeypatch, tmp_path / name)
    one, other = ((tmp_path / name / "scenes_vit.safetensors") for name in ("one", "other"))
    assert one.read_bytes() == other.read_bytes()
    assert scenes_network("ScenesViT", str(one))(torch.zeros(1, 3, 64, 64)).shape == (1, 11)


def train_once(name: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """By the embedded recipe, on 64 images and in one epoch."""
    make, recipe = RECIPES[name]
    monkeypatch.setitem(RECIPES, name, (make, recipe._replace(epochs=1)))
    train_embedded(name, Scenes("train", 64, cue_share=0.25), Scenes("val", 32, cue_share=0.25), folder)
