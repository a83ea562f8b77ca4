"""The README's promise: a model, a data set and a method of your own, without touching the project."""

from pathlib import Path

import forks
import pandas as pd
import pytest

CODE = '''
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from assay.harness.network import Network
from assay.harness.types import Attribution, Needs, Sample


def build_model(channels):
    body = [nn.Conv2d(3, channels, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    module = nn.Sequential(*body, nn.Linear(channels, 2))
    return Network(module, mean=[0.5] * 3, std=[0.5] * 3)


class Squares:
    """Two images; the object is the upper left quarter."""

    classes = ("dark", "light")
    split = "test"

    def __len__(self):
        return 2

    def __getitem__(self, index):
        image, box = torch.full((3, 8, 8), 0.2 + 0.5 * index), torch.tensor([[0.0, 0, 4, 4]])
        return Sample(f"square{index}", image, (index,), (8, 8), {index: box})

    def fingerprint(self):
        return "squares-1"


@dataclass(frozen=True)
class Corner:
    """A point in the upper left."""

    strength: float = 1.0
    VERSION: ClassVar[int] = 1

    def needs(self):
        return Needs()

    def attribute(self, forward, targets, rng):
        values = torch.zeros(len(targets.image), 8, 8)
        values[:, 1, 1] = self.strength
        return Attribution(values)
'''

CONFIGS = {
    "model/mine.yaml": "name: mine\n_target_: mine.build_model\nchannels: 4\ntarget_layer: '1'\n",
    "dataset/squares.yaml": "name: squares\n_target_: mine.Squares\ntolerance_px: 1\n",
    "method/corner.yaml": "# @package method.corner\n_target_: mine.Corner\nstrength: 2.0\n",
}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with a module `mine` and its configs."""
    (tmp_path / "mine.py").write_text(CODE)
    for name, text in CONFIGS.items():
        path = tmp_path / "conf" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def run(own: Path, *more: str) -> forks.Forked:
    """run.py with the folder's configs and code."""
    arguments = ["--config-dir", str(own / "conf"), "model=mine", "dataset=squares", "method=[corner,gradcam]"]
    environment = {"PYTHONPATH": str(own)}
    return forks.start(*arguments, f"results={own / 'results'}", *more, environment=environment)


def test_own_model_dataset_and_method(own: Path) -> None:
    """The corner method points into the upper left quarter of both images."""
    done = run(own, "--allow-target", "mine.")
    assert done.wait() == 0, done.errors()
    frame = pd.read_csv(own / "results/tidy/results.csv")
    hits = frame[(frame["method"] == "corner") & (frame["stat"] == "mean") & (frame["subset"] == "all")]
    assert hits["value"].tolist() == [1.0]


def test_own_code_needs_the_flag(own: Path) -> None:
    """Without --allow-target a config may not name code outside of the project, and the error says how."""
    done = run(own)
    assert done.wait() == 2 and "--allow-target" in done.errors()
