"""Paired comparison of detectors: differences of what is reported, intervals of images drawn for both alike."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from assay.harness import launch
from assay.harness.commands.program import call
from assay.harness.config import ConfigError
from assay.harness.failures import Mixture, Source
from assay.harness.inside import Inside
from assay.harness.overrides import compose_config
from assay.harness.results.compare import compare, left_out
from assay.harness.results.compare.differences import (
    Difference,
    error_differences,
    failure_differences,
    mean_difference,
    ood_differences,
)
from assay.harness.results.text import differences
from assay.harness.store.identity import SCHEMA, digest
from assay.harness.store.outcomes import Finished
from assay.harness.store.store import CellStore, Group, Shard
from assay.harness.store.survey import cells
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.float64]

RUN = [
    *("experiment=ood_embedded", "dataset=scenes_hard", "dataset.size=240", "ood=[scenes_shapes,scenes_inverted]"),
    *("ood.scenes_shapes.size=100", "ood.scenes_inverted.size=60", "method=[energy,msp]"),
    *("metric=[ood,error_detection]", "compute.device=cpu", "compute.processes=1"),
]
OOD = ["auroc", "fpr95_id_pos", "fpr95_ood_pos"]


# Statistics, on plain arrays


def correlated(n: int, shift: float, seed: int) -> tuple[Array, Array]:
    """Scores of two detectors that mostly agree, some of them equal."""
    generator = np.random.default_rng(seed)
    common = generator.normal(shift, 1, n)
    one, two = (common + generator.normal(0, 0.3, n) for _ in range(2))
    return one.round(1), (two + 0.1 * shift).round(1)


def auroc(inside: Array, outside: Array) -> float:
    """Share of pairs in which the ood image scores higher, equal scores counting half."""
    apart = outside[:, None] - inside[None, :]
    return float(((apart > 0) + (apart == 0) / 2).mean())


def fpr95(inside: Array, outside: Array) -> float:
    """Of the papers: the share of ood images below the score that 5 % of the in-distribution images reach."""
    return float((outside < np.sort(inside)[::-1][round(0.05 * len(inside))]).mean())


def aurc(scores: Array, wrong: NDArray[np.bool_]) -> float:
    """Mean over coverages of the share of wrong predictions among the surest; scores without ties."""
    ordered = wrong[np.argsort(scores)]
    return float((ordered.cumsum() / np.arange(1, len(ordered) + 1)).mean())


def interval(statistic: Callable[[], float], resamples: int = 1500) -> tuple[float, float]:
    """Percentiles of a plain bootstrap loop."""
    low, high = np.quantile([statistic() for _ in range(resamples)], [0.025, 0.975])
    return float(low), float(high)


def as_known(scores: tuple[Array, Array]) -> tuple[Inside, Inside]:
    """Either detector's scores of one test set's images."""
    return Inside(((scores[0], 0),)), Inside(((scores[1], 0),))


def test_an_independent_paired_bootstrap_gives_the_same_intervals() -> None:
    """Loops over images drawn by another generator, the same for both detectors: values to 1e-12, ends to .01, about
    four standard errors of 1000 resamples; unpaired, the interval would be twice as wide."""
    inside, outside = correlated(150, 0, 1), correlated(120, 1, 2)
    found = ood_differences(as_known(inside), outside, stream=7, tpr=0.95, resamples=1000)
    generator = np.random.default_rng(5)

    def paired(statistic: Callable[[Array, Array], float], drawn: bool, alike: bool = True) -> float:
        values, rows = [], []
        for side in range(2):
            if side == 0 or not alike:
                rows = [generator.integers(0, n, n) if drawn else np.arange(n) for n in (150, 120)]
            values.append(statistic(inside[side][rows[0]], outside[side][rows[1]]))
        return values[0] - values[1]

    for name, statistic in (("auroc", auroc), ("fpr_id_pos", fpr95)):
        made = found[name].numbers()
        assert made["difference"] == pytest.approx(paired(statistic, drawn=False), abs=1e-12)
        low, high = interval(lambda: paired(statistic, drawn=True))  # noqa: B023
        assert (made["ci_low"], made["ci_high"]) == pytest.approx((low, high), abs=0.01 if name == "auroc" else 0.03)
        assert made["n"] == 120
    low, high = interval(lambda: paired(auroc, drawn=True, alike=False))
    assert high - low > 2 * (found["auroc"].numbers()["ci_high"] - found["auroc"].numbers()["ci_low"])


def test_errors_are_paired_over_images() -> None:
    """AUROC and AURC of wrong predictions: values to 1e-12, ends to those of a plain loop (.01)."""
    generator = np.random.default_rng(0)
    wrong = generator.random(200) < 0.2
    common = generator.normal(0, 1, 200) + wrong
    scores = common + generator.normal(0, 0.5, 200), common + generator.normal(0, 0.2, 200)  # no ties
    found = error_differences(scores, wrong, resamples=1000)

    def difference(rows: NDArray[np.int64], name: str) -> float:
        if name == "auroc":
            return auroc(*_split(scores[0], wrong, rows)) - auroc(*_split(scores[1], wrong, rows))
        return aurc(scores[0][rows], wrong[rows]) - aurc(scores[1][rows], wrong[rows])

    for name in ("auroc", "aurc"):
        made = found[name].numbers()
        assert made["difference"] == pytest.approx(difference(np.arange(200), name), abs=1e-12)
        low, high = interval(lambda: difference(generator.integers(0, 200, 200), name))  # noqa: B023
        assert (made["ci_low"], made["ci_high"]) == pytest.approx((low, high), abs=0.01)
        assert made["n"] == 200


def test_failures_are_paired_over_images_and_their_versions() -> None:
    """120 images, their noisy versions, 80 unknown ones: AUROC of the 320 by a loop that draws an image with its
    version and unknown ones by themselves: the value to 1e-12, ends to .015."""
    generator = np.random.default_rng(3)
    wrong = [generator.random(120) < share for share in (0.2, 0.4)] + [np.ones(80, bool)]
    common = [generator.normal(0, 1, 120) + flags for flags in wrong[:2]] + [generator.normal(1, 1, 80)]
    scores = [[each + generator.normal(0, noise, len(each)) for each in common] for noise in (0.2, 1.0)]
    ids = [f"i{number}" for number in range(120)]

    def mixture(side: int) -> Mixture:
        names, kinds = (ids, ids, ids[:80]), (True, True, False)
        made = [Source(*each) for each in zip("tnu", names, scores[side], wrong, kinds, strict=True)]
        return Mixture(made[0], made)

    made = failure_differences((mixture(0), mixture(1)), resamples=1000)["auroc"].numbers()

    def difference(draw: bool) -> float:
        rows, far = (generator.integers(0, n, n) if draw else np.arange(n) for n in (120, 80))
        flags = np.concatenate([wrong[0][rows], wrong[1][rows], wrong[2][far]])
        one, two = (np.concatenate([each[0][rows], each[1][rows], each[2][far]]) for each in scores)
        return auroc(one[~flags], one[flags]) - auroc(two[~flags], two[flags])

    assert made["difference"] == pytest.approx(difference(draw=False), abs=1e-12) and made["n"] == 320
    low, high = interval(lambda: difference(draw=True))
    assert (made["ci_low"], made["ci_high"]) == pytest.approx((low, high), abs=0.015)


def _split(scores: Array, wrong: NDArray[np.bool_], rows: NDArray[np.int64]) -> tuple[Array, Array]:
    return scores[rows][~wrong[rows]], scores[rows][wrong[rows]]


def test_the_average_is_taken_resample_by_resample() -> None:
    """By hand, exact in binary: two sets that move against each other leave an average that does not move."""
    up, down = np.array([0.0, 0.5, 1.0]), np.array([1.0, 0.5, 0.0])
    sets = [{"auroc": Difference(0.5, each, (0.0, 1.0), n)} for each, n in ((up, 10), (down, 20))]
    made = mean_difference(sets)["auroc"]
    assert (made.value, made.resampled.tolist(), made.ends, made.n) == (0.5, [0.5, 0.5, 0.5], (0.0, 1.0), 30)


def test_two_perfect_detectors_may_differ_on_images_not_seen() -> None:
    """Both tell all images apart: the difference is 0, and its interval has a width, alike on both sides."""
    apart = np.arange(60.0), np.arange(60.0) ** 2
    made = ood_differences(as_known(apart), (apart[0] + 100, apart[1] + 9000), 1, 0.95, 200)["auroc"].numbers()
    assert made["difference"] == 0 and 0.02 < made["ci_high"] < 0.1 and made["ci_low"] == -made["ci_high"]


def test_without_wrong_predictions_only_risks_compare() -> None:
    """AUROC is undefined, AURC is 0 for both."""
    found = error_differences(correlated(50, 0, 1), np.zeros(50, bool), resamples=50)
    assert np.isnan(found["auroc"].value) and found["aurc"].value == 0


# A run


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Energy and MSP on hard scenes against two ood sets."""
    folder = tmp_path_factory.mktemp("detectors")
    assert launch.run(compose_config([*RUN, f"results={folder}"]), []) == 0
    return folder


def test_a_runs_detectors_are_compared(results: Path) -> None:
    """One row a set and quantity, the average last; differences are those of the run's own rows, to 1e-12, and the
    zero of no difference lies outside of an interval exactly where a plain bootstrap says so."""
    frame = compare(results / "store", "energy", "msp")
    tidy = pd.read_csv(results / "tidy/results.csv")
    tidy = tidy[(tidy["stat"] != "aurc") | (tidy["variant"] == "ties=mean")]
    assert frame["dataset"].drop_duplicates().tolist() == ["scenes_hard", "scenes_inverted", "scenes_shapes", "average"]
    assert frame.groupby("dataset", sort=False)["column"].apply(list).to_dict() == {
        "scenes_hard": ["auroc", "aurc", "augrc"],
        **{place: OOD for place in ("scenes_inverted", "scenes_shapes", "average")},
    }
    assert frame.groupby("dataset")["n"].max().to_dict() == {
        **{"scenes_hard": 240, "scenes_shapes": 100, "scenes_inverted": 60, "average": 160}
    }
    assert set(frame["reference"]) == {"", "scenes_hard"} and set(frame["first"]) == set(frame["second"]) == {""}
    for row in frame.itertuples():
        asked = {"dataset": row.dataset, "metric": row.metric, "stat": row.column, "subset": "all"}
        place = tidy[(tidy[list(asked)] == pd.Series(asked)).all(axis=1)].set_index("method")["value"]
        assert row.difference == pytest.approx(place["energy"] - place["msp"], abs=1e-12)
        assert row.ci_low <= row.difference <= row.ci_high


def test_the_sign_of_a_runs_difference_is_a_plain_bootstraps(results: Path) -> None:
    """AUROC against inverted scenes from the stored scores: the interval of a loop, to .01; the other way round,
    its mirror image."""
    scores = {}
    for cell in cells(results / "store"):
        labels = cell.cell()["labels"]
        if labels["dataset"] != "average":
            stop = 240 if labels["dataset"] == "scenes_hard" else 60
            table = cell.group("score").read(stop).sort_values("sample_id")
            scores[labels["method"], labels["dataset"]] = table["score"].to_numpy(float)
    generator = np.random.default_rng(9)

    def drawn() -> float:
        inner, outer = generator.integers(0, 240, 240), generator.integers(0, 60, 60)
        one, two = (
            auroc(scores[method, "scenes_hard"][inner], scores[method, "scenes_inverted"][outer])
            for method in ("energy", "msp")
        )
        return one - two

    row, mirrored = (
        frame[(frame["dataset"] == "scenes_inverted") & (frame["column"] == "auroc")].iloc[0]
        for frame in (compare(results / "store", *pair) for pair in (("energy", "msp"), ("msp", "energy")))
    )
    assert (row.ci_low, row.ci_high) == pytest.approx(interval(drawn), abs=0.01)
    assert (mirrored.difference, mirrored.ci_low) == pytest.approx((-row.difference, -row.ci_high), abs=1e-12)


def test_a_table_of_differences_names_the_sets(results: Path) -> None:
    """All sets against one in-distribution set in one table, wrong predictions in another."""
    lines = differences(compare(results / "store", "energy", "msp")).splitlines()
    assert "scenes_resnet on scenes_hard against other sets, protocol detection" in lines
    assert "scenes_resnet on scenes_hard test, protocol detection" in lines
    assert [line.split()[:3] for line in lines if "average auroc" in line] == [["ood", "average", "auroc"]]


def test_a_runs_failures_are_compared(tmp_path: Path) -> None:
    """On the test set, on a shifted version of it alone, on an unknown set among the test set, and on all together: the
    differences of the run's own rows, to 1e-12, inside of their intervals."""
    words = ["ood=[corrupted_noise,scenes_inverted]", "dataset.size=120", "metric=[failure]", f"results={tmp_path}"]
    kept = [
        each for each in RUN if each.split("=")[0] not in {"ood", "dataset.size", "metric", "ood.scenes_shapes.size"}
    ]
    assert launch.run(compose_config([*kept, *words]), []) == 0
    frame, tidy = compare(tmp_path / "store", "energy", "msp"), pd.read_csv(tmp_path / "tidy/results.csv")
    tidy = tidy[(tidy["stat"] != "aurc") | (tidy["variant"] == "ties=mean")]
    noisy = next(name for name in frame["dataset"] if name not in ("scenes_hard", "scenes_inverted", "together"))
    sizes = {"scenes_hard": 120, noisy: 120, "scenes_inverted": 180, "together": 300}
    assert frame.groupby("dataset")["n"].unique().explode().to_dict() == sizes
    assert frame["dataset"].iloc[-1] == "together" and set(frame["metric"]) == {"failure"}
    for row in frame.itertuples():
        asked = {"dataset": row.dataset, "stat": row.column}
        place = tidy[(tidy[list(asked)] == pd.Series(asked)).all(axis=1)].set_index("method")["value"]
        assert row.difference == pytest.approx(place["energy"] - place["msp"], abs=1e-12)
        assert row.ci_low <= row.difference <= row.ci_high


# Which cells pair


@dataclass
class Detector:
    """Stored scores of one detector on a test set and an ood set, with a finished metric `ood`."""

    root: Path
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] | None = None
    seed: int = 0
    images: dict[str, str] = field(default_factory=dict)  # data set -> its fingerprint
    stops: tuple[int, int] = (40, 30)
    tpr: float = 0.95
    undefined: tuple[str, ...] = ()

    def write(self) -> None:
        """Put both cells into the store."""
        test = self._cell("data", self.stops[0])
        ood = self._cell("other", self.stops[1])
        metric = {"_target_": "OODDetection", "tpr": self.tpr, "resamples": 20, "version": 1}
        about = {"schema": SCHEMA, "metric": metric, "compared": {"test": [test.key, self.stops[0]]}}
        described = {"name": "ood", "paired": [], "kind": "ood", "reference": "data", "identity": about}
        key = f"ood-{self.tpr}-{self.stops[0]}"
        ood.describe({}, {key: described})
        rows = [{"stat": stat, "value": None if stat in self.undefined else 0.5, "subset": "all"} for stat in OOD]
        ood.group(key).finish(self.stops[1], Finished("r", "test", rows))

    def _cell(self, dataset: str, stop: int) -> CellStore:
        labels: dict[str, Any] = {"model": "net", "weights": "net@w", "dataset": dataset, "protocol": "detection"}
        labels |= {"kind": "ood", "method": self.method, "seed": self.seed, "precision": "float32"}
        data = {"fingerprint": self.images.get(dataset, dataset), "order": None}
        identity: dict[str, Any] = {"schema": SCHEMA, "model": {"fingerprint": "w"}, "dataset": data, "protocol": {}}
        identity |= {"method": {"_target_": self.method, **self.settings}, "seed": self.seed}
        if self.training:
            identity |= {"training": {"data": {"dataset": {"fingerprint": "t"}}, "images": 60} | self.training}
        cell = CellStore(self.root, digest([identity, labels]))
        cell.describe({"identity": identity, "labels": labels}, {})
        self._put(cell.group("samples"), cell.group("score"), stop, 1.0 if dataset == "other" else 0.0)
        return cell

    def _put(self, samples: Group, scores: Group, stop: int, shift: float) -> None:
        names = np.array([f"i{number}" for number in range(stop)], dtype=object)
        who = {"position": np.arange(stop), "sample_id": names}
        label = np.where(np.arange(stop) < 10, -1, 0)  # ten images without one
        samples.write(Shard(0, stop), who | {"image_id": names, "label": label, "predicted": np.arange(stop) % 2})
        drawn = np.random.default_rng(len(self.method)).normal(shift, 1, stop)
        scores.write(Shard(0, stop), who | {"score": drawn})


def judge_errors(
    root: Path,
    validation: dict[str, list[Any]],
    name: str = "error_detection",
    kind: str = "error",
    stat: str = "auroc",
) -> None:
    """Rows of a finished metric about every detector's test set."""
    for cell in cells(root):
        if cell.cell()["labels"]["dataset"] == "data":
            about = {"schema": SCHEMA, "metric": {"_target_": name}, "compared": validation}
            described = {"name": name, "paired": [], "kind": kind, "reference": "", "identity": about}
            cell.describe({}, {digest(about): described})
            rows = [{"stat": stat, "value": 0.5, "subset": "all"}]
            cell.group(digest(about)).finish(40, Finished("r", "test", rows))


def quantities(frame: pd.DataFrame) -> list[str]:
    """The columns of its rows."""
    return frame["column"].tolist()


def test_fitted_and_unfitted_detectors_compare(tmp_path: Path) -> None:
    """Energy has no training set and k-NN has one: they pair; a recall of 90 % is named."""
    Detector(tmp_path, "energy", tpr=0.9).write()
    Detector(tmp_path, "knn", training={"images": 60}, tpr=0.9).write()
    assert quantities(compare(tmp_path, "energy", "knn")) == ["auroc", "fpr90_id_pos", "fpr90_ood_pos"]


@pytest.mark.parametrize("which", ["energy", "msp"])
def test_what_is_undefined_for_either_has_no_difference(tmp_path: Path, which: str) -> None:
    """A rate that the rows call undefined, as where all scores are equal: the other quantities alone."""
    for method in ("energy", "msp"):
        Detector(tmp_path, method, undefined=("fpr95_id_pos",) if method == which else ()).write()
    assert quantities(compare(tmp_path, "energy", "msp")) == ["auroc", "fpr95_ood_pos"]


def test_wrong_predictions_are_told_once_and_where_there_is_a_label(tmp_path: Path) -> None:
    """30 of 40 images have a label, half of these are wrong; rows of runs with and without a validation set agree."""
    Detector(tmp_path, "energy").write()
    Detector(tmp_path, "msp").write()
    judge_errors(tmp_path, {})
    judge_errors(tmp_path, {"validation": ["elsewhere", 9]})
    frame = compare(tmp_path, "energy", "msp")
    errors = frame[frame["metric"] == "error_detection"]
    assert errors[["column", "n"]].to_numpy().tolist() == [["auroc", 30], ["aurc", 30], ["augrc", 30]]


def test_without_a_label_there_is_nothing_to_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Images of no class: no wrong prediction and no failure among them, and a line says so; what is told from unknown
    images is compared, and of `files` alone the error says why."""
    files = tmp_path / "images"
    files.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(files / f"{number}.png")
    words = ["model=scenes_vgg", "dataset=files", f"dataset.files=[{files}]", "method=[energy,msp]"]
    words += ["compute.device=cpu", "compute.processes=1"]
    both = [*words, "metric=[failure,ood,error_detection]", "ood=[scenes_noise]", "ood.scenes_noise.size=20"]
    assert launch.run(compose_config([*both, f"results={tmp_path / 'both'}"]), []) == 0
    frame = compare(tmp_path / "both/store", "energy", "msp")
    assert frame.groupby("metric")["dataset"].unique().map(sorted).to_dict() == {
        "failure": ["scenes_noise", "together"],
        "ood": ["average", "scenes_noise"],
    }
    assert call(["compare", "energy", "msp", "--results", str(tmp_path / "both")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "not compared: error_detection on files, failure on files (none of their quantities is defined" in said
    alone = tmp_path / "alone"
    assert launch.run(compose_config([*words, "metric=[error_detection]", f"results={alone}"]), []) == 0
    with pytest.raises(ConfigError, match="share nothing that can be compared: error_detection on files"):
        compare(alone / "store", "energy", "msp")


def test_what_ranks_nothing_is_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rates of label change and units: no AUROC under their names, and a line says so."""
    store = tmp_path / "store"
    for method in ("energy", "msp"):
        Detector(store, method).write()
    judge_errors(store, {})
    assert left_out(store, "energy", "msp") == []
    judge_errors(store, {}, "label_change", stat="lcr_difference")
    assert set(compare(store, "energy", "msp")["metric"]) == {"ood", "error_detection"}
    assert call(["compare", "energy", "msp", "--results", str(tmp_path)]) == 0
    assert "not compared: label_change (" in capsys.readouterr().out


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"images": {"other": "changed"}},
        {"images": {"data": "changed"}},
        {"stops": (40, 29)},
        {"stops": (39, 30)},
        {"tpr": 0.9},
        {"training": {"images": 61}},
        {"training": {"data": {"dataset": {"fingerprint": "u"}}}},
    ],
    ids=str,
)
def test_other_images_settings_or_training_are_not_compared(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Another seed, content of either set, number of images of either, recall or training set."""
    usual: dict[str, Any] = {"training": {"images": 60}}
    Detector(tmp_path, "mahalanobis", **usual).write()
    Detector(tmp_path, "knn", **usual | changes).write()
    with pytest.raises(ConfigError, match="mahalanobis and knn have no finished metric"):
        compare(tmp_path, "mahalanobis", "knn")


def test_scores_that_are_gone_are_not_compared(tmp_path: Path) -> None:
    """The test set's cell was removed: its rows remain, and there is nothing to draw from."""
    Detector(tmp_path, "energy").write()
    Detector(tmp_path, "msp").write()
    wanted = {"method": "msp", "dataset": "data"}
    for cell in cells(tmp_path):
        if wanted.items() <= cell.cell()["labels"].items():
            shutil.rmtree(cell.path)
    with pytest.raises(ConfigError, match="energy and msp have no finished metric"):
        compare(tmp_path, "energy", "msp")


def test_rows_of_failed_scores_are_not_compared(tmp_path: Path) -> None:
    """A detector failed on a set: all rows are undefined, and there are no scores to read."""
    Detector(tmp_path, "energy").write()
    Detector(tmp_path, "msp", undefined=tuple(OOD)).write()
    for cell in cells(tmp_path):
        if cell.cell()["labels"]["method"] == "msp":
            shutil.rmtree(cell.group("score").path)
    with pytest.raises(ConfigError, match="energy and msp have no finished metric"):
        compare(tmp_path, "energy", "msp")


def test_rows_say_which_settings(tmp_path: Path) -> None:
    """Two k-NN in one store, with another k and another training set: a row each, with what differs; `energy`, of
    which there is one, needs no word."""
    Detector(tmp_path, "energy").write()
    Detector(tmp_path, "knn", settings={"k": 5, "metric": "l2"}, training={"images": 60}).write()
    Detector(tmp_path, "knn", settings={"k": 50, "metric": "l2"}, training={"images": 80}).write()
    frame = compare(tmp_path, "knn", "energy")
    assert frame["first"].drop_duplicates().tolist() == ["k=5, training.images=60", "k=50, training.images=80"]
    assert set(frame["second"]) == {""} and len(frame) == 6
    text = differences(frame)
    assert "net on data against other sets, protocol detection; first with k=5, training.images=60" in text.replace(
        "\n  ", " "
    )
