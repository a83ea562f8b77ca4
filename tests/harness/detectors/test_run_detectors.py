"""A run of detectors: one pass a data set, fits kept, rows that read two tables, and what goes wrong said."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from assay.datasets.scenes_ood import ScenesOOD
from assay.harness import launch
from assay.harness.config import Choice, ConfigError, RunConfig
from assay.harness.detectors import run as detectors_run
from assay.harness.detectors.features import PART, FeatureCell, _column, linear_head
from assay.harness.detectors.judge import judge
from assay.harness.detectors.plan import TEST, TRAIN, Detection, build_detection
from assay.harness.detectors.run import DetectorRun, pass_over
from assay.harness.detectors.score import fit, score, training_set
from assay.harness.engine.costs import Outcome
from assay.harness.engine.rank import Rank
from assay.harness.forward import ForwardPass
from assay.harness.network import Network
from assay.harness.overrides import compose_config
from assay.harness.results.compare.comparing import compare
from assay.harness.results.report.page import write_report
from assay.harness.results.tidy import collect
from assay.harness.store.outcomes import Failure
from assay.harness.store.store import Group, Shard
from assay.harness.types import Sample
from assay.methods.ood.ash import scaled, shaped
from assay.methods.ood.logits import MaxLogit
from assay.methods.ood.odin import ODIN
from assay.methods.ood.react import ReAct

SMALL = [
    "experiment=ood_embedded",
    "dataset.size=48",
    "train.size=60",
    "ood=[scenes_shapes,scenes_noise]",
    "ood.scenes_shapes.size=32",
    "ood.scenes_noise.size=32",
    "method=[msp,energy,react,mahalanobis,odin]",
    "metric.ood.resamples=50",
    "compute.device=cpu",
    "compute.processes=1",
    "compute.shard_size=16",
    "compute.batch_size=8",
]


def run(results: Path, *overrides: str) -> pd.DataFrame:
    """Run in this process; the tidy table."""
    chosen = [each for each in SMALL if each.split("=")[0] not in {o.split("=")[0] for o in overrides}]
    assert launch.run(compose_config([*chosen, f"results={results}", *overrides]), []) == 0
    return pd.read_csv(results / "tidy/results.csv")


def built(results: Path, *overrides: str) -> Detection:
    """The same, built and not run."""
    config = compose_config([*SMALL, f"results={results}", *overrides])
    return build_detection(config, results / "store")


def passes(results: Path) -> int:
    """Images that all invocations on record sent through the network."""
    records = [json.loads(path.read_text()) for path in (results / "runs").glob("*/*.json")]
    return sum(int(cost["forward_passes"]) for record in records for cost in record["methods"].values())


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, shards of 16."""
    results = tmp_path_factory.mktemp("reference")
    run(results)
    pictures = {path.name for path in results.glob("runs/*/*.png")}
    assert {"roc.png", "histograms-react.png"} <= pictures
    return results


@pytest.fixture(autouse=True)
def unpictured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures, half of the time of a run this small, are drawn in `reference` alone; their tests: test_pictures.py."""
    monkeypatch.setattr(detectors_run, "_draw", lambda *_: None)


def values(frame: pd.DataFrame, stat: str) -> dict[tuple[str, str], float]:
    """(method, data set) -> value of a statistic."""
    chosen = frame[(frame.stat == stat) & (frame.metric == "ood")]
    return {(row.method, row.dataset): row.value for row in chosen.itertuples()}


def test_every_detector_has_a_row_for_every_set_and_their_mean(reference: Path) -> None:
    """AUROC within [0,1], `reference` names the test set, and `average` is the mean of the two sets (to 1e-12)."""
    frame = pd.read_csv(reference / "tidy/results.csv")
    found = values(frame, "auroc")
    methods = {"msp", "energy", "react", "mahalanobis", "odin"}
    assert set(found) == {(m, d) for m in methods for d in ("scenes_shapes", "scenes_noise", "average")}
    assert set(frame[frame.metric == "ood"].reference) == {"scenes"} and set(frame.kind) == {"ood"}
    for method in methods:
        mean = (found[method, "scenes_shapes"] + found[method, "scenes_noise"]) / 2
        assert found[method, "average"] == pytest.approx(mean, abs=1e-12)
        assert 0 <= mean <= 1
    assert frame.status.eq("ok").all()


def test_processes_and_shards_do_not_change_a_bit(reference: Path, tmp_path: Path) -> None:
    """Two processes and shards of 32 instead of 16 (micro-batches of 8 in both): results.csv byte for byte.

    A set in one shard, as the unknown ones here, starts no second process: those of the other two are enough.
    """
    run(tmp_path, "compute.processes=2", "compute.shard_size=32")
    assert (tmp_path / "tidy/results.csv").read_bytes() == (reference / "tidy/results.csv").read_bytes()


def test_another_setting_runs_no_backbone(tmp_path: Path) -> None:
    """The first run passes 48 + 2 x 32 + 60 images; other clips, percentiles and detectors on the logits: none."""
    run(tmp_path, "method=[msp,react]")
    assert passes(tmp_path) == 48 + 2 * 32 + 60
    before = values(pd.read_csv(tmp_path / "tidy/results.csv"), "auroc")
    after = run(tmp_path, "method=[react,energy,line]", "method.react.percentile=50")
    assert passes(tmp_path) == 48 + 2 * 32 + 60
    rows = after[(after.method == "react") & (after.stat == "auroc") & (after.dataset == "scenes_shapes")]
    assert len(rows) == 2 and before["react", "scenes_shapes"] in set(rows.value) and rows.value.nunique() == 2


def test_a_second_call_computes_nothing(reference: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No image, no fit, and the table stays as it is."""
    before, seen = (reference / "tidy/results.csv").read_bytes(), passes(reference)
    run(reference)
    assert "0 shards computed" in capsys.readouterr().out
    assert passes(reference) == seen and (reference / "tidy/results.csv").read_bytes() == before


def test_features_are_the_networks(reference: Path) -> None:
    """Stored logits and features against a direct pass (exactly), and head(features) against logits (float32, 1e-5)."""
    detection = built(reference)
    test = detection.sets[TEST]
    part = next(test.features.parts(len(test)))
    images = torch.stack([test.images.dataset[index].image for index in range(8)])
    forward = ForwardPass(detection.request.network, images, penultimate=True)
    assert torch.equal(part.logits[:8], forward.logits) and torch.equal(part.tap()[:8], forward.penultimate)
    torch.testing.assert_close(part.linear_head()(part.tap()), part.logits, rtol=1e-5, atol=1e-5)
    assert part.labels.tolist() == [test.images.dataset[index].targets[0] for index in range(48)]


def test_scores_from_the_loop_equal_direct_calls(reference: Path) -> None:
    """ODIN, scored inside the shared pass, and ReAct, from stored features, against calls by hand; exactly."""
    detection = built(reference)
    test = detection.sets[TEST]
    images = torch.stack([test.images.dataset[index].image for index in range(8)])
    forward = ForwardPass(detection.request.network, images, input_graph=True)
    assert test.table("odin").score[:8].tolist() == ODIN().score_images(forward, None, {}).tolist()  # type: ignore[arg-type]
    training, react = training_set(detection), ReAct(percentile=95)
    features = next(test.features.parts(len(test)))
    assert test.table("react").score.tolist() == react.score(features, react.fit(training)).tolist()


def test_a_failing_detector_does_not_lose_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 1, a row that says why, the others' rows complete; the next run tries again."""

    def broken(*_: object) -> None:
        raise RuntimeError("no such luck")

    config = compose_config([*SMALL, "method=[msp,react]", f"results={tmp_path}"])
    with monkeypatch.context() as patch:
        patch.setattr(ReAct, "fit", broken)
        assert launch.run(config, []) == 1
    frame = pd.read_csv(tmp_path / "tidy/results.csv")
    failed = frame[frame.status.str.startswith("failed")]
    assert set(failed.method) == {"react"} and failed.status.str.contains("no such luck").all()
    assert len(values(frame[frame.status == "ok"], "auroc")) == 3
    again = run(tmp_path, "method=[msp,react]")
    assert again.status.eq("ok").all() and len(values(again, "auroc")) == 6
    with monkeypatch.context() as patch:
        patch.setattr(ReAct, "fit", broken)
        assert launch.run(compose_config([*SMALL, "method=[react]", "cache=refresh", f"results={tmp_path}"]), []) == 1
    assert len(values(pd.read_csv(tmp_path / "tidy/results.csv"), "auroc")) == 3  # no row of the earlier run stays


class ConvolutionalEnd(torch.nn.Sequential):
    """Ends in a 1x1 convolution, a ReLU and a pool, as SqueezeNet does; or in other layers."""

    def __init__(self, *end: torch.nn.Module) -> None:
        layers = torch.nn.Conv2d(3, 8, 3, 4), torch.nn.ReLU(), torch.nn.Conv2d(8, 11, 1)
        pool = torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
        super().__init__(*layers, *(end or (torch.nn.ReLU(), *pool)))


def with_network(module: torch.nn.Module, results: Path, *overrides: str) -> RunConfig:
    """The small run of another network."""
    config = compose_config([*SMALL, f"results={results}", *overrides])
    made = Network(module, [0.5] * 3, [0.25] * 3, fingerprint=type(module).__name__)
    config.model = Choice("model", "own", {"_target_": "own"}, made=made)
    return config


def test_a_detector_that_cannot_score_this_network_does_not_stop_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a last linear layer: `vim` and `ash` have failed rows that say why, the plan says so, the exit code is 1,
    and no training image is looked at for them; the detectors on logits have their rows. The next run says it again.
    Where no detector can, nothing is run."""
    for _ in range(2):
        assert launch.run(with_network(ConvolutionalEnd(), tmp_path, "method=[msp,vim,energy,ash]"), []) == 1
        said = capsys.readouterr()
        assert "caution: vim will have no scores: reads penultimate features, and own does not end in" in said.out
        assert "(ReLU comes last of what is not linear)" in said.out
        assert "FAILED ash: reads penultimate features" in said.err
    frame = pd.read_csv(tmp_path / "tidy/results.csv")
    failed = frame[frame.status.str.startswith("failed")]
    assert set(failed.method) == {"vim", "ash"} and failed.status.str.contains("does not end in a linear layer").all()
    found = values(frame[frame.status == "ok"], "auroc")
    assert set(found) == {(m, d) for m in ("msp", "energy") for d in ("scenes_shapes", "scenes_noise", "average")}
    assert passes(tmp_path) < 48 + 2 * 32 + 60
    with pytest.raises(ConfigError, match="ash, vim: reads penultimate features"):
        launch.run(with_network(ConvolutionalEnd(), tmp_path, "method=[vim,ash]"), [])


def test_a_convolution_at_the_end_stops_no_detector_and_probabilities_stop_all(tmp_path: Path) -> None:
    """A 1x1 convolution and a pool are a last layer: SCALE's score is the energy of its scaled features under the
    convolution's weights (1e-5 relative). Behind a softmax nothing is scored."""
    pool = torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    config = with_network(ConvolutionalEnd(*pool), tmp_path, "method=[msp,scale]")
    assert launch.run(config, []) == 0
    test = build_detection(config, tmp_path / "store").sets[TEST]
    part, point = next(test.features.parts(len(test))), config.model.made.module[2]
    logits = scaled(part.tap(), 85) @ point.weight.flatten(1).T + point.bias
    assert np.allclose(test.table("scale").score, -logits.detach().logsumexp(1), rtol=1e-5)
    with pytest.raises(ConfigError, match="own returns probabilities"):
        launch.run(with_network(ConvolutionalEnd(*pool, torch.nn.Softmax(1)), tmp_path / "softmax", "method=[msp]"), [])


def test_a_sigmoid_inside_is_no_obstacle_to_logits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before a 3x3 convolution and a mean: real logits, which MSP scores; what reads features says why it cannot."""
    pool = torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    module = ConvolutionalEnd(torch.nn.Sigmoid(), torch.nn.Conv2d(11, 11, 3, padding=1), *pool)
    assert launch.run(with_network(module, tmp_path, "method=[msp]"), []) == 0
    assert "sigmoid inside" not in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"ash: reads penultimate .* \(Sigmoid comes last of what is not linear\)"):
        launch.run(with_network(module, tmp_path, "method=[ash]"), [])


def test_a_projection_head_and_a_temperature_stop_no_detector(tmp_path: Path) -> None:
    """The linear layer that makes the logits, not the one registered last; the temperature is in its weights: every
    detector has its rows, ASH's score is the energy of its shaped features under them (1e-5 relative)."""

    class Tempered(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc, self.projector = (
                torch.nn.Conv2d(3, 8, 3, 4),
                torch.nn.Linear(8, 11),
                torch.nn.Linear(8, 2),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.conv(x).relu().mean((2, 3))) / 0.25

    config = with_network(Tempered(), tmp_path, "method=[msp,knn,ash,vim]")
    assert launch.run(config, []) == 0
    frame = pd.read_csv(tmp_path / "tidy/results.csv")
    assert frame.status.eq("ok").all() and len(values(frame, "auroc")) == 12
    test = build_detection(config, tmp_path / "store").sets[TEST]
    part = next(test.features.parts(len(test)))
    fc = config.model.made.module.fc
    logits = (shaped(part.tap(), 90) @ fc.weight.T + fc.bias) / 0.25
    assert np.allclose(test.table("ash").score, -logits.logsumexp(1), rtol=1e-5)


def test_a_bad_image_loses_its_set_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other set keeps its rows and a group of it its average, the averages with the lost one say what is missing,
    and the exit code is 1."""
    read = ScenesOOD.__getitem__

    def broken(self: ScenesOOD, index: int) -> Sample:
        if self.kind == "shapes" and index == 20:
            raise OSError("bad image")
        return read(self, index)

    monkeypatch.setattr(ScenesOOD, "__getitem__", broken)
    groups = "metric.ood.groups={near:[scenes_shapes,scenes_noise],far:[scenes_noise]}"
    config = compose_config([*SMALL, "method=[msp,odin]", groups, f"results={tmp_path}"])
    assert launch.run(config, []) == 1
    frame = pd.read_csv(tmp_path / "tidy/results.csv")
    ok = frame[frame.status == "ok"]
    named = ("scenes_noise", "average far")
    assert set(values(ok, "auroc")) == {(method, name) for method in ("msp", "odin") for name in named}
    assert set(frame[frame.dataset == "scenes_shapes"].status.str.contains("bad image")) == {True}
    for name in ("average", "average near"):
        assert frame[frame.dataset == name].status.str.contains("no scores of scenes_shapes").all()


def test_groups_of_sets_add_rows_and_change_no_key(tmp_path: Path) -> None:
    """Of three sets two are `near`: their mean stands beside the mean of all; every earlier row stays under its key, a
    group is another cell than `average`, even of the same sets, no image goes through the network again, and two
    detectors' groups compare."""
    sets = "ood=[scenes_shapes,scenes_noise,scenes_inverted]"
    plain = run(tmp_path, "method=[msp,energy]", sets, "ood.scenes_inverted.size=32")
    before = passes(tmp_path)
    group = "metric.ood.groups={near:[scenes_shapes,scenes_noise],all:[scenes_shapes,scenes_noise,scenes_inverted]}"
    grouped = run(tmp_path, "method=[msp,energy]", sets, "ood.scenes_inverted.size=32", group)
    assert passes(tmp_path) == before
    is_new = grouped["dataset"].str.startswith("average ")
    pd.testing.assert_frame_equal(grouped[~is_new].reset_index(drop=True), plain)
    assert set(grouped[is_new]["method"]) == {"msp", "energy"}
    auroc = values(grouped, "auroc")
    for method in ("msp", "energy"):
        mean = np.mean([auroc[method, name] for name in ("scenes_shapes", "scenes_noise")])
        assert auroc[method, "average near"] == pytest.approx(mean)
        assert auroc[method, "average near"] != auroc[method, "average"] == auroc[method, "average all"]
    keys = grouped[grouped["dataset"].str.startswith("average")].groupby("dataset")["cell_key"].agg(set)
    assert sorted(keys.index) == ["average", "average all", "average near"]
    assert len(set.union(*keys)) == 6
    compared = compare(tmp_path / "store", "energy", "msp")
    assert {"average near", "average all", "average"} <= set(compared["dataset"])
    assert list(compared["dataset"].unique())[-3:] == ["average", "average all", "average near"]


def test_a_run_shows_its_own_rows_alone(tmp_path: Path) -> None:
    """Another test set's rows about the same OOD sets stay in the tidy table, not in this run's."""
    run(tmp_path, "dataset.size=24", "method=[msp]")
    run(tmp_path, "method=[msp]")
    folders = sorted((tmp_path / "runs").glob("*/results.csv"))
    assert len(folders) == 2
    for path in folders:
        frame = pd.read_csv(path)
        assert not frame.duplicated(["method", "dataset", "stat", "variant"]).any()
    both = pd.read_csv(tmp_path / "tidy/results.csv")
    assert len(both[(both.stat == "auroc") & (both.dataset == "scenes_noise")]) == 2


def test_half_written_scores_are_completed(tmp_path: Path) -> None:
    """A shard of `samples` lost after the scores were written: computed again, the table as before."""
    run(tmp_path, "method=[odin]")
    before = (tmp_path / "tidy/results.csv").read_bytes()
    next((tmp_path / "store").glob("*/samples/*.parquet")).unlink()
    run(tmp_path, "method=[odin]")
    assert (tmp_path / "tidy/results.csv").read_bytes() == before


def test_scores_that_are_not_finite_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a failure of that detector, not as a row."""
    monkeypatch.setattr(ReAct, "score", lambda _, features, __: torch.full((len(features),), torch.nan))
    assert launch.run(compose_config([*SMALL, "method=[react]", f"results={tmp_path}"]), []) == 1
    assert pd.read_csv(tmp_path / "tidy/results.csv").status.str.contains("not finite").any()


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["method=[msp,gradcam]"], "evaluate them in two runs"),
        (["method=[react]", "~dataset@train"], "dataset@train=NAME"),
        (["ood=[]"], r"ood=\[NAME"),
        (["metric=[pointing_game]"], "measures attributions"),
        (["method=[mahalanobis]", "method.mahalanobis.layers=[nowhere]"], "method.mahalanobis.layers"),
        (["ood.scenes_noise.name=scenes"], "two data sets are called scenes"),
        (["cache=only"], "cache=only, but results of"),
        (
            ["metric.ood.groups={near:[scenes_noise,svhn]}"],
            r"metric.ood.groups.near: svhn is no set of this run, whose sets are scenes_noise, scenes_shapes"
            r".*\(~metric.ood.groups.near\)",
        ),
        (
            ["model=scenes_resnet_disconnected", "method=[msp,knn]"],
            "model scenes_resnet_disconnected reads 2 x 2 images at once.*knn, msp would judge them as one",
        ),
    ],
)
def test_impossible_requests(overrides: list[str], says: str, tmp_path: Path) -> None:
    """Each error names the setting that mends it."""
    settings = [each for each in SMALL if not (overrides[0] == "metric=[pointing_game]" and "metric" in each)]
    if overrides[0] == "ood=[]":
        settings = [each for each in settings if not each.startswith("ood")]
    with pytest.raises(ConfigError, match=says):
        launch.run(compose_config([*settings, f"results={tmp_path}", *overrides]), [])


def test_errors_are_the_same_codes_second_task(tmp_path: Path) -> None:
    """is_error as the label: rows of kind error, thresholds from the validation set, MSP beside the fitted ones."""
    settings = ["experiment=errors_embedded", "dataset.size=60", "train.size=80", "validation.size=60"]
    settings += [
        "method=[msp,conductance_mlp]",
        "method.conductance_mlp.epochs=1",
        "metric.error_detection.resamples=50",
    ]
    settings += ["compute.device=cpu", "compute.processes=1", f"results={tmp_path}"]
    with pytest.warns(UserWarning, match="training"):  # few errors among 80 images
        assert launch.run(compose_config(settings), []) == 0
    frame = pd.read_csv(tmp_path / "tidy/results.csv")
    assert set(frame.kind) == {"error"} and set(frame.method) == {"msp", "conductance_mlp"}
    recalls = frame[(frame.stat == "recall_error") & (frame.method == "msp")]
    assert set(recalls.subset) == {"all", "validation"} and recalls.value.between(0, 1).all()


def test_one_image_has_no_interval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An OOD set of one image: a value and no interval, in the rows, the terminal and the report's page. AUROC is the
    share of the 48 in-distribution scores below its own (half of the equal ones)."""
    config = compose_config(
        [
            *SMALL[:3],
            "ood=[scenes_noise]",
            "ood.scenes_noise.size=1",
            "method=[energy]",
            *SMALL[7:],
            f"results={tmp_path}",
        ]
    )
    assert launch.run(config, []) == 0
    shown = capsys.readouterr().out
    frame = pd.read_csv(tmp_path / "tidy/results.csv")
    rows = frame[(frame.dataset == "scenes_noise") & ~frame.stat.str.startswith("tpr_at")]
    assert set(rows.n) == {1} and rows.status.eq("ok").all()
    assert rows[["stderr", "ci_low", "ci_high"]].isna().all(axis=None)
    inside, (score,) = (
        build_detection(config, tmp_path / "store").sets[place].table("energy").score
        for place in (TEST, "scenes_noise")
    )
    expected = (inside < score).mean() + (inside == score).mean() / 2
    assert rows[rows.stat == "auroc"].value.item() == pytest.approx(expected, abs=1e-12)
    page = shown_on(write_report(collect(tmp_path), tmp_path / "report"))
    assert f"{100 * expected:.2f}" in shown and f"{expected:.3f}" in page
    assert "nan" not in shown.lower() and "nan" not in re.sub("nan(?=[a-z])", "", page.lower())


def shown_on(page: Path) -> str:
    """A page without its scripts and styles."""
    return re.sub(r"(?s)<(script|style).*?</\1>", "", page.read_text())


def test_wrong_predictions_of_one_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`errors_embedded limit=1`: accuracy and risk are 0 or 1, without a bootstrap of one image; what needs both kinds
    of prediction is undefined; terminal and page show the rest."""
    small = ["train.size=12", "validation.size=1", "method=[msp]", "metric.error_detection.resamples=50"]
    words = ["experiment=errors_embedded", "limit=1", *small, "compute.device=cpu", "compute.processes=1"]
    assert launch.run(compose_config([*words, f"results={tmp_path}"]), []) == 0
    shown = capsys.readouterr().out
    frame = pd.read_csv(tmp_path / "tidy/results.csv")
    aurc = frame[(frame.stat == "aurc") & (frame.variant == "ties=mean")]
    assert aurc.n.item() == 1 and aurc.value.item() in (0, 1) and aurc[["ci_low", "ci_high"]].isna().all(axis=None)
    assert frame[frame.stat == "auroc"].status.str.startswith("undefined:no ").all()
    assert "nan" not in shown.lower() and f"{aurc.value.item():.3f}" in shown
    page = shown_on(write_report(collect(tmp_path), tmp_path / "report"))
    assert f"{aurc.value.item():.3f}" in page and "[nan" not in page


def test_limits_take_the_first_images(tmp_path: Path) -> None:
    """`limit` of every scored set, `train.limit` of the training set; rows say so."""
    frame = run(tmp_path, "limit=20", "train.limit=30", "method=[react]")
    assert passes(tmp_path) == 20 * 3 + 30
    assert set(frame[frame.dataset != "average"].split) == {"test[:20]"}
    assert set(frame[frame.dataset != "average"].n) == {20}


def test_own_images_at_the_threshold_of_the_data(reference: Path) -> None:
    """id95 leaves 95 % of the 48 test images strictly inside (index rule: 46 below the limit); a picture is judged."""
    overrides = [*SMALL[:3], *SMALL[8:], "method=[mahalanobis]", f"results={reference}"]
    picture = str(Path(__file__).resolve().parents[3] / "docs/pictures/gallery.png")
    frame = judge([picture], overrides, "id95").verdicts
    scores = built(reference).sets[TEST].table("mahalanobis").score
    assert (scores < frame.threshold[0]).sum() == 48 - round(0.05 * 48) - 1
    assert frame.verdict.tolist() == ["out"] and frame.image[0] == picture
    assert judge([picture], overrides, "1e9").verdicts.verdict.tolist() == ["in"]
    with pytest.raises(ConfigError, match="id95"):
        judge([picture], overrides, "high")


def test_a_detector_without_a_threshold_judges_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores that are all equal: no score keeps 95 % of the data below it. The other detector's verdicts are there; the
    first's rates are undefined beside the recall that is reached; a score given as the threshold does."""
    monkeypatch.setattr(MaxLogit, "score", lambda _, features, __: -torch.ones(len(features)))
    overrides = [*SMALL[:3], *SMALL[8:], "method=[energy,max_logit]", f"results={tmp_path}"]
    picture = str(Path(__file__).resolve().parents[3] / "docs/pictures/gallery.png")
    made = judge([picture], overrides, "id95")
    assert set(made.verdicts.method) == {"energy"}
    assert "id95: no threshold accepts 95 % of 48 scores" in made.failures["max_logit"]
    assert set(judge([picture], overrides, "-1").verdicts.verdict) == {"out", "in"}
    frame = run(tmp_path, "method=[max_logit]")
    rates = frame[(frame.method == "max_logit") & (frame.stat == "fpr95_id_pos")]
    assert rates.value.isna().all() and rates.status.str.contains("reaches 0.0 % of 48 images, not 95 %").all()
    assert set(frame[frame.stat == "tpr_at_fpr95_id_pos"].value) == {0}


def test_columns_do_not_depend_on_shards(tmp_path: Path) -> None:
    """Parts of PART rows, read from shards of 1000, of 3000 that overlap, or of one."""
    rows = np.arange(2 * PART + 5, dtype=np.float32)[:, None].repeat(3, 1)
    for name, cuts in {"a": [1000], "b": [3000], "c": [len(rows)]}.items():
        group = Group(tmp_path / name)
        for start in range(0, len(rows), cuts[0]):
            stop = min(start + cuts[0] + (name == "b"), len(rows))
            group.write(Shard(start, stop), {"values": rows[start:stop]})
        read = list(_column(group, "values", len(rows) - 1))
        assert [len(part) for part in read] == [PART, PART, 4]
        assert np.array_equal(np.concatenate(read), rows[:-1])


def test_a_network_that_does_not_end_in_a_linear_layer_has_no_head() -> None:
    """A convolution after a linear layer, and a linear layer whose output is not the logits."""
    gate = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4), torch.nn.ReLU())
    torch.nn.init.constant_(gate.get_parameter("1.bias"), -9)  # what the ReLU leaves as it is would be the logits
    network = Network(gate, [0.0] * 3, [1.0] * 3)
    assert linear_head(network, torch.rand(3, 2, 2)) is None
    plain = Network(gate[:2], [0.0] * 3, [1.0] * 3)
    head = linear_head(plain, torch.rand(3, 2, 2))
    assert (
        head is not None
        and torch.equal(head.bias, gate.get_parameter("1.bias"))
        and torch.equal(head.weight, gate.get_parameter("1.weight"))
    )


def test_torchrun_ranks_only_share_the_passes(tmp_path: Path) -> None:
    """Rank 1 of 2 computes features and neither fits nor scores."""
    detection = built(tmp_path)
    DetectorRun(detection).compute(Rank(1, 2))
    assert detection.training is not None and detection.training.features.group("logits").shards()
    assert not (tmp_path / "store/fits").exists()
    assert isinstance(detection.sets[TEST].features, FeatureCell)


@pytest.mark.parametrize("lost", ["a shard", "a failure elsewhere"])
def test_nothing_is_fitted_on_a_part_of_the_training_set(lost: str, tmp_path: Path) -> None:
    """A shard of the features is gone, or another process could not make it: no state under the key of the whole set.

    (On a torn set Mahalanobis' AUROC was .709 where it is .944, and its status ok.) When all is there, it is fitted.
    """
    detection = built(tmp_path, "method=[mahalanobis]")
    run, training = DetectorRun(detection), detection.training
    assert training is not None
    run.prepare(Rank(0, 1))
    pass_over(detection, TRAIN, ["mahalanobis"], Rank(0, 1))
    group = training.features.group("penultimate")
    if lost == "a shard":
        (group.path / f"{group.shards()[1]}.parquet").unlink()
    else:
        group.fail(Failure("OSError: a bad image"))
    outcome, kept = Outcome(batch_size=8), detection.sets[TEST].cells["mahalanobis"].fit
    fit(detection, ["mahalanobis"], outcome)
    assert kept is not None and not kept.exists()
    says = "some are missing" if lost == "a shard" else "a bad image"
    assert "no features of all 60 images" in outcome.failures["mahalanobis"] and says in outcome.failures["mahalanobis"]
    run.prepare(Rank(0, 1))
    assert run.compute(Rank(0, 1)).failures == {}
    assert kept.exists()


def test_a_set_without_all_features_is_not_scored(tmp_path: Path) -> None:
    """The set's failure, not scores of some of its images."""
    detection = built(tmp_path, "method=[msp]")
    DetectorRun(detection).prepare(Rank(0, 1))
    pass_over(detection, TEST, ["msp"], Rank(0, 1))
    detection.sets[TEST].features.group("logits").fail(Failure("OSError: a bad image"))
    score(detection, TEST, ["msp"], outcome := Outcome(batch_size=8))
    assert "a bad image" in outcome.failures["msp"] and not detection.sets[TEST].cells["msp"].group("score").shards()
