"""Maps of large frames are measured part by part: the same columns in bounded memory."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from assay.harness import launch
from assay.harness.attribution import parts
from assay.harness.attribution.cell import AttributionCell
from assay.harness.attribution.parts import Span, spans
from assay.harness.attribution.plan import build_job
from assay.harness.engine.measure import share
from assay.harness.forward import ForwardPass
from assay.harness.overrides import compose_config
from assay.harness.types import Batch, FramedMaps, Sample
from torch import Tensor

METRICS = "pointing_game,energy_pointing_game,outside_inside,mean_ap,insertion,shap_cosine"
WORDS = ["method=[gradcam,random]", f"metric=[{METRICS}]", "limit=8", "compute.device=cpu", "compute.processes=1"]


def test_spans_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 100 pixels padded to the largest height and width: 6x4 and 4x6 are 6x6 together, or one pair of any."""
    monkeypatch.setattr(parts, "PIXELS", 100)
    assert list(spans(torch.tensor([[6, 4], [4, 6], [6, 6], [20, 20], [5, 5], [5, 5], [5, 5], [5, 5], [1, 1]]))) == [
        *(Span(0, 2), Span(2, 3), Span(3, 4), Span(4, 8), Span(8, 9)),
    ]
    assert list(spans(torch.zeros(0, 2, dtype=torch.int64))) == [Span(0, 0)]


def test_a_part_of_a_batch() -> None:
    """Pairs 1 to 4 of (a: 0, 1), (b: none), (c: 2), (d: 3, 4); all images stay, each pair keeps its row."""
    targets = {"a": (0, 1), "b": (), "c": (2,), "d": (3, 4)}
    samples = [Sample(name, torch.zeros(3, 2, 2), classes, (2, 2)) for name, classes in targets.items()]
    part = Batch.of(samples).part(1, 4)
    assert part.sample_ids == ["a#1", "c#2", "d#3"]
    assert part.image_ids == ["a", "b", "c", "d"]
    assert [values.tolist() for values in part.targets] == [[0, 2, 3], [1, 2, 3]]


def columns(results: Path) -> dict[str, pd.DataFrame]:
    """What a run stored, by method and metric."""
    config = compose_config([*WORDS, "limit=5", f"results={results}"])
    assert launch.run(config, []) == 0
    cells = build_job(config, results / "store").cells
    return {f"{cell.name} {name}": cell.group(name).read(5) for cell in cells for name in cell.groups}


def test_parts_change_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pair a part of its own: not a bit of what is read off maps, and rounding where a metric asks the network
    about other batches (perturbed images, a reference method), as with another batch size."""
    whole = columns(tmp_path / "whole")
    monkeypatch.setattr(parts, "PIXELS", 1)
    by_pair = columns(tmp_path / "parts")
    assert whole.keys() == by_pair.keys()
    assert max(len(table) for table in whole.values()) > 5
    for name, table in whole.items():
        for column in table:
            one, other = (np.array(each[column].tolist()) for each in (table, by_pair[name]))
            if name.endswith(("insertion", "shap_cosine")) and column not in ("sample_id", "position"):
                np.testing.assert_allclose(one, other, rtol=2e-6, atol=2e-6, err_msg=f"{name} {column}")
            else:
                np.testing.assert_array_equal(one, other, err_msg=f"{name} {column}")


def test_a_metric_sees_no_more_than_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps of 64x64 for about a dozen pairs, two at a time; the method is asked once."""
    seen: list[tuple[int, int]] = []

    class Recording:
        def measure(self, batch: Batch, maps: FramedMaps, forward: ForwardPass) -> dict[str, Tensor]:
            seen.append((len(batch.pairs), maps.maps.numel()))
            return {"row": batch.targets.image}

    monkeypatch.setattr(parts, "PIXELS", 2 * 64 * 64)
    job = build_job(compose_config([*WORDS, f"results={tmp_path}"]), tmp_path / "store")
    cell = job.cells[0]
    assert isinstance(cell, AttributionCell)
    monkeypatch.setitem(cell.metrics, "pointing_game", Recording())
    batch, forward = share(job, [job.images.dataset[i] for i in range(8)], [cell], 8)
    found = cell.columns("pointing_game", cell.prepare(batch, forward), batch, forward)
    assert found["row"].tolist() == batch.targets.image.tolist()
    assert len(seen) == (len(batch.pairs) + 1) // 2 > 3
    assert all(pairs <= 2 and pixels <= 2 * 64 * 64 for pairs, pixels in seen)
