"""Faults planted in copies of the checkout: the gate catches and names each; of clean copies it says nothing.

    python -m pytest -q -n 0 -s -m slow tests/campaigns/test_planted_faults.py

`-s` shows the table of faults and findings. Each fault is compared on the part of the gate that it concerns (an
experiment, narrowed to some methods and metrics), with the committed baseline's rows of that part: the same comparison
as `make check` makes.
"""

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import pytest
from assay.harness.results.gate.findings import CHANGED, INCOMPLETE, SAME
from assay.harness.results.gate.sides import PART, Side, read_side, write_side
from campaigns.copies import ROOT, Gate, copy, replace
from campaigns.faults import COCO, CSV, CUE, DETECTORS, FAULTS, RESNET, SCENES, VOC, Fault, Part
from safetensors.torch import load_file, save

BASELINE = ROOT / "results/baselines/embedded.csv.gz"
pytestmark = pytest.mark.slow


class Campaign:
    """A clean copy, and the committed baseline's rows of each part."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.gate = folder, Gate()
        self.clean = copy(folder / "clean")
        self._parts: dict[Part, Path] = {}

    @cached_property
    def committed(self) -> Side:
        """The whole baseline."""
        return read_side(BASELINE)

    def baseline(self, part: Part) -> Path:
        """The baseline of one part: of the results that a clean copy has. The clean copy is as it."""
        if part not in self._parts:
            name = f"part{len(self._parts)}"
            self.gate(self.clean, part.words, "", name)
            path = self.folder / f"{name}.csv"
            write_side(within(self.committed, read_side(self.clean / name)), path)
            done = self.gate(self.clean, [*part.words, "cache=only"], str(path), name)
            assert done.code == SAME and " 0 (method" not in done.text, done.text
            self._parts[part] = path
        return self._parts[part]

    def copy(self, name: str) -> Path:
        """A copy of its own."""
        return copy(self.folder / re.sub(r"\W", "-", name), self.clean)


def within(side: Side, other: Side) -> Side:
    """What of a side is in another, by (method, metric) results."""
    known = other.rows[PART].drop_duplicates()
    return Side(side.rows.merge(known, on=PART), side.samples.merge(known, on=PART))


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    """One for all faults: it ends with the process that forks."""
    made = Campaign(tmp_path_factory.mktemp("campaign"))
    yield made
    made.gate.stop()


def planted(fault: Fault, path: Path) -> bytes:
    """The file with the fault: its one text replaced, or other weights under its name."""
    if not fault.text:
        weights = load_file(path)
        name = next(name for name in sorted(weights) if weights[name].ndim == 4)
        return save({**weights, name: weights[name].flip(0).contiguous()})
    text = path.read_text()
    assert text.count(fault.text) == 1, f"{fault.file} has {fault.text!r} {text.count(fault.text)} times"
    return text.replace(fault.text, fault.planted).encode()


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_a_planted_fault_is_caught_and_named(fault: Fault, campaign: Campaign) -> None:
    """Exit code 1 or 3, and a line about the metric that it spoils."""
    baseline, place = campaign.baseline(fault.part), campaign.copy(fault.name)
    replace(place / fault.file, planted(fault, place / fault.file))
    done = campaign.gate(place, fault.part.words, str(baseline))
    found = [line for line in done.text.splitlines() if re.match("changed|missing|failed", line)]
    named = [line for line in found if re.search(fault.finding, line)]
    about = " ".join(fault.part.words)
    print(f"\n| {fault.name} | {about} | {done.code} | {len(found)} | {(named or [''])[0][:150]} |")
    assert done.code in (CHANGED, INCOMPLETE), f"escaped: {done.text}{(place / 'output').read_text()}"
    assert named, done.text


CLEAN = (
    (Part(SCENES), ["compute.workers=1"]),
    (Part(RESNET), ["compute.workers=2", "compute.shard_size=3"]),
    (Part(CUE), ["compute.batch_size=1"]),
    (Part(SCENES), ["compute.batch_size=3"]),
    (Part(RESNET), ["compute.processes=2", "compute.shard_size=4"]),
    (Part(DETECTORS), ["compute.processes=2", "compute.shard_size=8"]),
    (Part(DETECTORS), ["compute.threads=2", "compute.batch_size=7"]),
    (Part(CSV), ["compute.threads=2", "compute.workers=2"]),
    (Part(COCO), ["compute.processes=2", "compute.shard_size=1"]),
    (Part(VOC), ["compute.batch_size=2", "compute.workers=1"]),
)


@pytest.mark.parametrize("part, words", CLEAN, ids=[" ".join([part.experiment, *words]) for part, words in CLEAN])
def test_a_clean_run_raises_no_alarm(part: Part, words: list[str], campaign: Campaign) -> None:
    """Whole experiments, cut otherwise into batches, shards, processes, threads and loaders: the same."""
    done = campaign.gate(campaign.clean, [*part.words, *words], str(campaign.baseline(part)), "again")
    print(f"\n| {' '.join([part.experiment, *words])} | {done.code} | {done.text.splitlines()[-1]} |")
    assert done.code == SAME, done.text


def test_there_are_enough() -> None:
    """Twenty faults, ten clean runs, every experiment of the gate among the latter."""
    assert len(FAULTS) >= 20 and len({fault.name for fault in FAULTS}) == len(FAULTS) and len(CLEAN) == 10
    assert {part.experiment for part, _ in CLEAN} == {SCENES, RESNET, CUE, CSV, COCO, VOC, DETECTORS}
