"""What is kept of a detector's scores."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch
from assay.harness.detection import DetectorNeeds, Features, State
from assay.harness.detectors.cells import ScoreCell
from assay.harness.store.store import SAMPLES, SCORE, CellStore, Shard
from torch import Tensor


@dataclass(frozen=True)
class Plain:
    """The first logit."""

    VERSION: ClassVar[int] = 1

    def needs(self) -> DetectorNeeds:
        return DetectorNeeds()

    def score(self, features: Features, state: State) -> Tensor:
        return features.logits[:, 0]


@dataclass(frozen=True)
class Detailed(Plain):
    """With all logits, and their signs."""

    def details(self, features: Features, state: State) -> dict[str, Tensor]:
        return {"logits": features.logits, "positive": (features.logits > 0).to(torch.int8)}


FEATURES = Features(torch.tensor([[1.0, -2.0], [3.0, 4.0]]), torch.tensor([0, 1]))


def cell(detector: Plain, root: Path) -> ScoreCell:
    groups = {SAMPLES: SAMPLES, SCORE: SCORE}
    return ScoreCell("made", CellStore(root, "cell"), groups, detector, cast(Any, None), None, about={})


def test_details_are_kept_beside_the_score(tmp_path: Path) -> None:
    """A column each, of any type and width, through the store and back; a detector without has its score alone."""
    assert list(cell(Plain(), tmp_path).scored(FEATURES, ["a", "b"])) == [SCORE]
    made = cell(Detailed(), tmp_path)
    scored = made.scored(FEATURES, ["a", "b"])
    names = {"position": np.arange(2), "sample_id": np.array(["a", "b"], dtype=object)}
    made.group(SCORE).write(Shard(0, 2), {**names, **scored})
    table = made.group(SCORE).read(2)
    assert table[SCORE].tolist() == [1, 3]
    assert np.stack(table["logits"].to_list()).tolist() == FEATURES.logits.tolist()
    signs = np.stack(table["positive"].to_list())
    assert signs.dtype == np.int8
    assert signs.tolist() == [[1, 0], [1, 1]]


@pytest.mark.parametrize("taken", ["label", "known", SCORE, "sample_id"])
def test_details_have_names_of_their_own(taken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the table of scores has already is not to be replaced."""
    monkeypatch.setattr(Detailed, "details", lambda *_: {taken: FEATURES.logits, "other": FEATURES.logits})
    with pytest.raises(ValueError, match=f"made: details {taken}: the table of scores has such a column already"):
        cell(Detailed(), tmp_path).scored(FEATURES, ["a", "b"])


def test_scores_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one an image"):
        cell(Detailed(), tmp_path).scored(FEATURES, ["a"])
