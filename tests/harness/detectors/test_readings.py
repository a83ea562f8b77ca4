"""Readings: computed once an image, whoever asks and however often; kept, shared, prepared, damaged, refused."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from assay.harness import launch
from assay.harness.commands.program import call
from assay.harness.config import Choice, ConfigError, RunConfig
from assay.harness.detection import Features, Reading, State
from assay.harness.detectors.features import LOGITS
from assay.harness.detectors.plan import TEST, TRAIN, VALIDATION, Detection, build_detection
from assay.harness.detectors.run import DetectorRun
from assay.harness.detectors.scorer import Scorer
from assay.harness.engine.costs import Outcome
from assay.harness.engine.rank import Rank
from assay.harness.engine.request import Request
from assay.harness.forward import ForwardPass
from assay.harness.network import Network
from assay.harness.overrides import compose_config
from assay.harness.store.damage import mended
from assay.harness.store.fits import fits
from assay.harness.store.outcomes import Failure
from assay.harness.store.store import SCORE, shards_of
from assay.methods.error.conductance import ErrorMLP
from conftest import assert_nothing_left
from reading_toys import Noise, Powers, SumOf, Votes

SMALL = [
    *("model=scenes_vgg", "metric=[error_detection]", "metric.error_detection.resamples=20", "compute.device=cpu"),
    *("dataset.size=24", "dataset.objects=[1,1]", "compute.processes=1", "compute.shard_size=8"),
    *("compute.batch_size=4", "dataset@train=scenes_train", "train.size=20", "dataset@validation=scenes_hard"),
    *("validation.size=16",),
]
POWERS = "reading_toys.Powers(factor=1.0, form=squares)"
Detectors = dict[str, SumOf]


def config_of(results: Path, detectors: Detectors, *overrides: str) -> RunConfig:
    """A small config with detectors of ours."""
    config = compose_config([*SMALL, "method=[msp]", f"results={results}", *overrides])
    for name, made in detectors.items():
        settings = {"_target_": "SumOf", "training": made.training, "of": repr(made.readings)}
        config.method[name] = Choice("method", name, settings, made=made)
    return config


def run(results: Path, detectors: Detectors, *overrides: str) -> pd.DataFrame:
    """Run in this process; the tidy table."""
    assert launch.run(config_of(results, detectors, *overrides), []) == 0
    return pd.read_csv(results / "tidy/results.csv")


def built(results: Path, detectors: Detectors, *overrides: str) -> Detection:
    """The same, built and not run."""
    return build_detection(config_of(results, detectors, *overrides), results / "store")


def compute(detection: Detection) -> Outcome:
    """The same without tables and pictures."""
    made = DetectorRun(detection)
    made.prepare(Rank(0, 1))
    return made.compute(Rank(0, 1))


def passes(outcome: Outcome) -> dict[str, int]:
    """Images that were sent through the network, by what they were for."""
    return {name: cost.passes.forward for name, cost in outcome.costs.items() if cost.passes.forward}


def values(detection: Detection, place: str, reading: Reading) -> torch.Tensor:
    """What is kept of a reading."""
    chosen = detection.at(place)
    return torch.cat([part.reading(reading) for part in chosen.features.parts(len(chosen), [reading])])


ALL: Detectors = {
    "plain": SumOf((Powers(), Noise())),
    "fitted": SumOf((Powers(), Votes()), training=True),
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, shards of 8."""
    results = tmp_path_factory.mktemp("reference")
    run(results, ALL)
    return results


def test_values_are_those_of_a_direct_call(reference: Path) -> None:
    """[N,2,C] float32 and [N,C] int16 come back with shape, type and bits; the state is the validation set's mean."""
    detection = built(reference, ALL)
    test, network = detection.sets[TEST], detection.request.network
    images = torch.stack([test.images.dataset[index].image for index in range(4)])
    logits = ForwardPass(network, images).logits
    powers, votes = values(detection, TEST, Powers()), values(detection, TEST, Votes())
    assert torch.equal(powers[:4], torch.stack([logits, logits**2], 1)) and len(powers) == 24
    kept = detection.readings[Votes()]
    validation = detection.sets[VALIDATION]
    mean = next(validation.features.parts(len(validation))).logits.mean(0)
    assert torch.equal(kept.reader.state["mean"], mean)
    assert votes.dtype == torch.int16 and torch.equal(votes[:4], (logits > mean).to(torch.int16))
    assert_nothing_left(network)


def test_scores_by_hand(reference: Path) -> None:
    """Sums of the kept values; of the fitted one less the training set's mean; to the bit."""
    detection = built(reference, ALL)

    def sums(place: str, *readings: Reading) -> torch.Tensor:
        return sum(values(detection, place, each).double().flatten(1).sum(1) for each in readings)  # type: ignore[return-value]

    scores = {name: torch.tensor(detection.sets[TEST].table(name).score) for name in ALL}
    assert torch.equal(scores["plain"], sums(TEST, Powers(), Noise()))
    assert torch.equal(scores["fitted"], sums(TEST, Powers(), Votes()) - sums(TRAIN, Powers(), Votes()).mean())


def test_versions_of_parts_are_in_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector of detectors has a fit and scores of its own for each VERSION of theirs; other keys are as before."""
    words = ["method=[unified_lda,conductance_mlp,msp]", "method.conductance_mlp.layer=features.0"]
    config = compose_config([*SMALL, *words, "method.unified_lda.scores.conductance.layer=features.0"])

    def keys() -> dict[str, list[str]]:
        cells = build_detection(config, tmp_path).sets[TEST].cells
        return {name: [cell.store.key, cell.fit.path.stem if cell.fit else ""] for name, cell in cells.items()}

    before = keys()
    cells = build_detection(config, tmp_path).sets[TEST].cells
    assert not any("versions" in str(cells[name].about) for name in ("conductance_mlp", "msp"))
    monkeypatch.setattr(ErrorMLP, "VERSION", 5)
    after = keys()
    assert not set(before["unified_lda"]) & set(after["unified_lda"]) and before["msp"] == after["msp"]


def test_each_is_computed_once_and_where_it_is_wanted(tmp_path: Path) -> None:
    """Two detectors share `Powers`: one pass an image of 24 + 16 + 20; `Noise` is not drawn for training images.

    The validation set's images are passed a first time to prepare `Votes`. Nothing is left to a second call, nor to
    another detector of the same readings; of another seed `Noise` alone is another, which draws.
    """
    detection = built(tmp_path, ALL)
    assert passes(compute(detection)) == {"(shared)": 24 + 2 * 16 + 20, POWERS: 24 + 16 + 20}
    assert any("Noise" in title for title in detection.sets[TEST].features.titled)
    assert not any("Noise" in title for title in detection.at(TRAIN).features.titled)
    other = {"other": SumOf((Noise(), Powers(), Votes())), "fitted": replace(ALL["fitted"], readings=(Votes(),))}
    assert passes(compute(built(tmp_path, ALL))) == passes(compute(built(tmp_path, other))) == {}
    seeded = built(tmp_path, ALL, "seed=1").readings
    assert {each for each, kept in detection.readings.items() if kept.key != seeded[each].key} == {Noise()}


def test_shards_and_batches_do_not_change_a_bit(reference: Path, tmp_path: Path) -> None:
    """Shards of 4; and what is drawn does not depend on batches of 3 either."""
    for folder, word in ((tmp_path / "a", "compute.shard_size=4"), (tmp_path / "b", "compute.batch_size=3")):
        compute(built(folder, ALL, word))
    kept, others, batches = (built(folder, ALL) for folder in (reference, tmp_path / "a", tmp_path / "b"))
    for reading in (Powers(), Noise(), Votes()):
        assert torch.equal(values(kept, TEST, reading), values(others, TEST, reading))
    noise = values(kept, TEST, Noise())
    assert torch.equal(noise, values(batches, TEST, Noise())) and len(noise.unique()) == noise.numel()


@pytest.mark.slow
def test_processes_do_not_change_a_bit(reference: Path, tmp_path: Path) -> None:
    """Two processes, the reading prepared in the first: results.csv byte for byte."""
    run(tmp_path, ALL, "compute.processes=2")
    assert (tmp_path / "tidy/results.csv").read_bytes() == (reference / "tidy/results.csv").read_bytes()


def test_results_say_what_a_reading_decided(reference: Path) -> None:
    """The column `settings` holds the class and what `about` says (the form); so does what the store says."""
    frame = pd.read_csv(reference / "tidy/results.csv")
    said = {method: json.loads(part.settings.iloc[0]) for method, part in frame.groupby("method")}
    assert said["plain"]["readings"]["0"] == {
        **{"_target_": "reading_toys.Powers", "factor": 1.0, "form": "squares", "version": 1}
    }
    assert "readings" not in said["msp"]
    detection = built(reference, ALL)
    title = detection.readings[Powers()].title
    assert detection.sets[TEST].features.group(title).about()["identity"]["reading"]["form"] == "squares"
    assert any(title in line and line.endswith("done") for line in DetectorRun(detection).describe())


@pytest.mark.parametrize("lost", [pytest.param("a shard", marks=pytest.mark.slow), "the state"])
def test_what_is_damaged_is_made_anew(lost: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One shard of 8 images, or what a reading is prepared to, with images that are still to be read: no more is."""
    detectors = {"votes": SumOf((Votes(), Powers()))}
    compute(detection := built(tmp_path, detectors))
    test, (state,) = detection.sets[TEST], fits(tmp_path / "store")
    before, groups = test.table("votes"), {each: test.features.group(k.title) for each, k in detection.readings.items()}
    damaged = next(groups[Powers()].path.glob("*.parquet")) if lost == "a shard" else state
    data = damaged.read_bytes()
    damaged.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    gone = [test.cells["votes"].group("score"), *([groups[Votes()]] if lost == "the state" else [])]
    for path in [path for group in gone for path in group.path.glob("*.parquet")]:
        path.unlink()
    found = passes(mended(lambda: compute(built(tmp_path, detectors))))
    assert f"damaged: {damaged}" in capsys.readouterr().err
    assert found == ({POWERS: 8, "(shared)": 8} if lost == "a shard" else {"(shared)": 24})
    pd.testing.assert_frame_equal(before, test.table("votes"))


@pytest.mark.parametrize("fails", ["read", "prepare"])
def test_a_reading_that_fails_fails_its_detectors_alone(fails: str, tmp_path: Path) -> None:
    """The others have scores, the failure says why, and the next run tries again."""
    detectors = {"plain": ALL["plain"], "votes": SumOf((Votes(fails),)), "fitted": SumOf((Votes(fails),), True)}
    why = "no votes" if fails == "read" else "no mutant is good enough"
    for _ in range(2):
        detection = built(tmp_path, detectors)
        failures = compute(detection).failures
        assert why in failures["votes"] and why in failures["fitted"] and "plain" not in failures
        assert set(detection.failed()) == {"votes", "fitted"} and len(detection.sets[TEST].table("plain")) == 24
        assert len(list(fits(tmp_path / "store"))) == int(fails == "read")
        assert all(detection.sets[TEST].features.group(LOGITS).has(shard) for shard in shards_of(24, 8))


@pytest.mark.slow
def test_ranks_share_the_work(reference: Path, tmp_path: Path) -> None:
    """Rank 1 of 2 prepares what nobody has, reads its images, neither fits nor scores; rank 0 ends with the same."""
    DetectorRun(built(tmp_path, ALL)).compute(Rank(1, 2))
    assert len(list(fits(tmp_path / "store"))) == 1
    compute(detection := built(tmp_path, ALL))
    for name in ALL:
        expected = built(reference, ALL).sets[TEST].table(name)
        pd.testing.assert_frame_equal(expected, detection.sets[TEST].table(name))


def test_what_failed_is_still_to_be_seen(tmp_path: Path) -> None:
    """Yesterday's fit failed on the training set's images, and the test set's features are there: 20 images to pass,
    before the failure is forgiven and after, and so a look at the network first."""
    compute(built(tmp_path, {"plain": SumOf((Powers(),))}))
    detection = built(tmp_path, {"fitted": SumOf((Powers(),), training=True)})
    for each in detection.sets.values():
        each.cells["fitted"].group(SCORE).fail(Failure("out of memory"))
    assert detection.unseen() == 20 and detection.wanted() == []
    compute(detection)
    assert detection.unseen() == 0


def test_equal_readings_are_one_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three detectors with an equal one each: the first is asked about itself, and holds what it loads for all."""
    plain, asked = Powers.about, dict[int, Powers]()

    def about(self: Powers, network: Network) -> dict[str, Any]:
        return plain(asked.setdefault(id(self), self), network)

    monkeypatch.setattr(Powers, "about", about)
    made = {name: SumOf((Powers(),)) for name in "abc"}
    compute(detection := built(tmp_path, made))
    assert list(asked) == [id(made["a"].readings[0])] and len(detection.readings) == 1
    assert not detection.failed()


def test_refresh_and_gc(tmp_path: Path) -> None:
    """`cache=refresh` reads all images again; `gc --features` takes values and states."""
    detectors = {"votes": SumOf((Votes(), Powers()))}
    first, again = (passes(compute(built(tmp_path, detectors, word))) for word in ("cache=missing", "cache=refresh"))
    assert first == again == {POWERS: 24 + 16, "(shared)": 24 + 2 * 16}
    assert call(["gc", "--features", "--yes", "--results", str(tmp_path)]) == 0
    assert not list(fits(tmp_path / "store")) and not list((tmp_path / "store/features").glob("*/*/*.parquet"))


@dataclass(frozen=True)
class Explained(SumOf):
    """With details."""

    def details(self, features: Features, state: State) -> State:
        return {}


@pytest.mark.parametrize(
    ("detector", "validation", "says"),
    [
        (SumOf((Votes(),)), "none", "prepared on a validation set: dataset@validation=NAME"),
        (SumOf((Powers(),), images=True), "", "looks at images again and asks for readings"),
        (Explained((), images=True), "", "method mine looks at images again and has details, which are of features"),
        (SumOf((Powers(0),)), "", "method mine: factor=0: choose another"),
    ],
    ids=["no validation set", "images", "details", "not of this network"],
)
def test_refusals(detector: SumOf, validation: str, says: str, tmp_path: Path) -> None:
    config = config_of(tmp_path, {"mine": detector})
    config.validation = None if validation == "none" else config.validation
    with pytest.raises(ConfigError, match=re.escape(says)):
        build_detection(config, tmp_path / "store")


@pytest.mark.parametrize(
    ("made", "says"),
    [(torch.zeros(3, 2), r"returned \[3, 2\] for 4 images"), (torch.full((4, 2), torch.nan), "not finite for test-")],
    ids=["rows", "nan"],
)
def test_values_that_are_none(made: torch.Tensor, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other than a finite row an image: the reading fails, by name."""
    monkeypatch.setattr(Powers, "read", lambda *_: made)
    assert re.search(says, compute(built(tmp_path, {"plain": SumOf((Powers(),))})).failures["plain"])


def scorer_of(detector: SumOf, folder: Path) -> Scorer:
    """A detector in memory."""
    config = config_of(folder, {"mine": detector})
    config.method.pop("msp")
    return Scorer.of(Request.of(config, folder / "store"))


def test_a_detector_in_memory_reads_your_own_images(reference: Path, tmp_path: Path) -> None:
    """To the bit those of a run, fitted and prepared; what is drawn depends on an image's pixels alone."""
    test = built(reference, ALL).sets[TEST]
    images = torch.stack([test.images.dataset[index].image for index in range(24)])
    scorer = scorer_of(ALL["fitted"], tmp_path)
    assert np.array_equal(scorer.score(images).numpy(), test.table("fitted").score.to_numpy())
    drawn = scorer_of(SumOf((Noise(),)), tmp_path)
    assert (
        torch.equal(drawn.score(images)[5:7], drawn.score(images[5:7])) and drawn.score(images).unique().numel() == 24
    )


def test_what_was_not_asked_for_is_not_there(reference: Path) -> None:
    detection: Any = built(reference, ALL)
    part = next(detection.sets[TEST].features.parts(24, [Powers()]))
    with pytest.raises(ValueError, match=r"Noise\(\) not kept: name it in the detector's needs\(\).readings"):
        part.reading(Noise())
