"""The public functions say what the command line says, to the digit; and a toy's map is known by hand."""

import inspect
import io
import os
import random
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from assay.harness import launch
from assay.harness.attribution.maps import export_maps
from assay.harness.attribution.plan import build_job
from assay.harness.config import ConfigError
from assay.harness.networks.scenes import ScenesVGG
from assay.harness.overrides import compose_config
from assay.harness.types import Sample
from assay.methods.attribution.gradient import Gradient
from conftest import random_images
from torch import Tensor, nn

import assay

HALF = ([0.5] * 3, [0.5] * 3)
ALONE = ["compute.processes=1", "compute.device=cpu"]
MAPS = (["gradcam", "random", "center"], ["pointing_game", "energy_pointing_game"])
LIMITS = ["limit=12", "compute.device=cpu"]
DETECTORS = ["msp", "odin", "knn"]
SETS = ["ood=[scenes_noise]", "train.limit=120"]


def command_line(results: Path, *words: str) -> pd.DataFrame:
    """results.csv of run.py on the same words, in this process."""
    config = compose_config([*words, *ALONE, f"results={results}"])
    assert launch.run(config, list(words)) == 0
    return pd.read_csv(results / "tidy" / "results.csv", keep_default_na=False, na_values={"value": [""]})


def same_rows(ours: pd.DataFrame, theirs: pd.DataFrame) -> None:
    """Value for value, interval for interval, in the same order; as text, which is how they are read."""
    ours = pd.read_csv(io.StringIO(ours.to_csv(index=False)), keep_default_na=False, na_values={"value": [""]})
    pd.testing.assert_frame_equal(ours, theirs, check_exact=True)


# Equality with the command line


def test_evaluate_is_the_command_line(tmp_path: Path) -> None:
    """Maps: every column of results.csv, keys and intervals among them."""
    theirs = command_line(tmp_path, "model=scenes_vgg", "method=[gradcam,random,center]",
                          "metric=[pointing_game,energy_pointing_game]", "limit=12", "seed=3")  # fmt: skip
    same_rows(assay.evaluate("scenes_vgg", "scenes", *MAPS, overrides=[*LIMITS, "seed=3"]), theirs)


def test_evaluate_of_detectors_is_the_command_line(tmp_path: Path) -> None:
    """With a training set and unknown images, which are arguments or overrides."""
    words = ["model=scenes_resnet", f"method=[{','.join(DETECTORS)}]", "metric=[ood,error_detection]", "limit=24"]
    theirs = command_line(tmp_path, *words, "dataset@train=scenes_train", *SETS)
    asked = ("scenes_resnet", "scenes", DETECTORS, ["ood", "error_detection"])
    with pytest.warns(UserWarning, match="a rate moves by 4.2 % at once"):
        ours = assay.evaluate(*asked, train="scenes_train", overrides=["limit=24", "compute.device=cpu", *SETS])
    same_rows(ours, theirs)


@pytest.mark.filterwarnings("ignore:.*a rate moves")
def test_samples_are_what_is_aggregated() -> None:
    """Means of the per-sample columns are the reported means: hits of pairs, AUROC of scores."""
    asked = ("scenes_vgg", "scenes", *MAPS)
    table, rows = assay.samples(*asked, overrides=LIMITS), assay.evaluate(*asked, overrides=LIMITS)
    assert table.columns[:3].tolist() == ["method", "sample_id", "image_id"]
    assert (table.sample_id == table.image_id + "#" + table.label.astype(str)).all()
    for method, each in table.groupby("method"):
        shown = rows[(rows.method == method) & (rows.subset == "all") & (rows.stat == "mean")].set_index("metric")
        assert shown.value["pointing_game"] == each["pointing_game.hit"].mean()
        assert shown.value["energy_pointing_game"] == pytest.approx(
            each["energy_pointing_game.inside_share"].astype(float).mean(), rel=1e-12
        )
        assert (shown.n == len(each)).all()


@pytest.mark.filterwarnings("ignore:.*a rate moves")
def test_samples_of_detectors() -> None:
    """A row a method, set and image; the share of unknown images above a known one is the AUROC."""
    asked = ("scenes_vgg", "scenes", ["msp", "energy"], "ood")
    rest: dict[str, Any] = {"ood": "scenes_noise", "overrides": ["limit=30", "compute.device=cpu"]}
    table, rows = assay.samples(*asked, **rest), assay.evaluate(*asked, **rest)
    assert table.columns.tolist() == ["method", "dataset", "image_id", "label", "predicted", "score", "is_error"]
    assert table.groupby(["method", "dataset"]).size().to_dict() == {
        (method, name): 30 for method in ("msp", "energy") for name in ("scenes", "scenes_noise")
    }
    for method, each in table.groupby("method"):
        known, unknown = (each[each.dataset == name].score.to_numpy() for name in ("scenes", "scenes_noise"))
        above = (unknown[:, None] > known).mean() + 0.5 * (unknown[:, None] == known).mean()
        auroc = rows[(rows.method == method) & (rows.dataset == "scenes_noise") & (rows.stat == "auroc")].value.item()
        assert auroc == pytest.approx(above, rel=1e-12)


# One image


def test_explain_is_the_maps_command(tmp_path: Path) -> None:
    """To the bit, under the protocol's smoothing; None is the highest class.

    But for the last digit of a smoothed map that the command smooths together with another class's.
    """
    words = ["method=[gradcam,gradient,lrp_epsilon]", "protocol=pointing_game", "limit=2", *ALONE]
    job = build_job(compose_config(words), tmp_path)
    export_maps(job, tmp_path / "maps", 2, ["npz"])
    pairs = [(job.images.dataset[index], label) for index in range(2) for label in job.images.dataset[index].targets]
    assert len(pairs) == 3
    for sample, label in pairs:
        for method in job.request.methods:
            made = assay.explain("scenes_vgg", sample.image, method, label, overrides=["protocol=pointing_game"])
            with np.load(tmp_path / "maps" / method / f"{sample.id}%23{label}.npz") as kept:
                apart = [np.abs(made.map.numpy() - kept["map"]), np.abs(made.native.numpy() - kept["values"])]
                scale = np.abs(kept["values"]).max()
            together = method == "gradient" and len(sample.targets) > 1
            assert all(float(each.max()) <= (5e-7 * scale if together else 0) for each in apart)
            assert made.target == label
    image = pairs[0][0].image
    table = assay.samples("scenes_vgg", "scenes", "center", "pointing_game", overrides=["limit=1"])
    top = assay.explain("scenes_vgg", image, "gradcam")
    assert top.target == table.top[0]
    assert top.probability == pytest.approx(table.probability[table.label == table.top].item(), rel=1e-6)


def linear() -> nn.Sequential:
    """Two pixels of three channels, two classes: weights 1..6 and 6..1 over (channel, pixel)."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(6, 2, bias=False))
    module[1].weight.data = torch.tensor([[1.0, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1]])
    return module


def test_a_map_by_hand() -> None:
    """Input x gradient of a linear network, summed over channels: sum_c w_cp (x_cp - mean) / std.

    Pixels a = (1, 0, 1/2) and b = (1/2, 1/2, 0), mean 1/2, std 1/4: normalised (2, -2, 0) and (0, 0, -2).
    Class 0 weighs a by (1, 3, 5) and b by (2, 4, 6): a = 2 - 6 + 0 = -4, b = 0 + 0 - 12 = -12.
    Class 1 weighs a by (6, 4, 2) and b by (5, 3, 1): a = 12 - 8 + 0 = 4, b = -2. Logits -16 and 2.
    """
    image = torch.tensor([[1, 0.5], [0, 0.5], [0.5, 0]]).view(3, 1, 2)
    model = (linear(), [0.5] * 3, [0.25] * 3)
    overrides = ["method.input_x_gradient.reduce=sum"]
    first, second = (assay.explain(model, image, "input_x_gradient", label, overrides=overrides) for label in (0, 1))
    assert first.map.tolist() == [[-4.0, -12.0]] and second.map.tolist() == [[4.0, -2.0]]
    assert first.probability == pytest.approx(1 / (1 + np.exp(18)), rel=1e-6)
    assert assay.explain(model, image, "input_x_gradient").target == 1


# What is given as an object


class Squares:
    """Two images with a box in the upper left quarter."""

    classes = ("dark", "light")
    split = "test"

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Sample:
        image, box = torch.full((3, 8, 8), 0.2 + 0.5 * index), torch.tensor([[0.0, 0, 4, 4]])
        return Sample(f"square{index}", image, (index,), (8, 8), {index: box})

    def fingerprint(self) -> str:
        return "squares-1"


def small(classes: int = 2) -> nn.Sequential:
    """A traceable network of images of any size."""
    body = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(*body, nn.Linear(4, classes))


def test_a_data_set_with_boxes() -> None:
    """The centre (3.5, 3.5) lies in the box [0, 4): a hit in both images."""
    rows = assay.evaluate((small(), *HALF), Squares(), "center", "pointing_game", tolerance_px=1)
    assert rows[(rows.stat == "mean") & (rows.subset == "all")].value.tolist() == [1.0]
    assert rows.dataset.unique().tolist() == ["Squares"] and rows.n.max() == 2


def test_objects_and_names_side_by_side() -> None:
    """An object's rows are those of the config that says the same; they show that weights were given."""
    chosen = {"mine": Gradient(), "gradient": None, "gradcam": None}
    asked = ((small(), *HALF), (random_images(6, 12), [0, 1] * 3), chosen, "average_drop")
    rows = assay.evaluate(*asked, layer="1", overrides=["protocol=top1"])
    by = {
        name: each.drop(columns=["method", "cell_key", "run_id", "settings"]) for name, each in rows.groupby("method")
    }
    assert by.keys() == {"mine", "gradient", "gradcam"}
    pd.testing.assert_frame_equal(by["mine"].reset_index(drop=True), by["gradient"].reset_index(drop=True))
    assert rows.weights.str.fullmatch("given@[0-9a-f]{8}").all()
    again = assay.evaluate(*asked, layer=1, overrides=["protocol=top1"])  # type: ignore[arg-type]
    pd.testing.assert_frame_equal(rows, again)  # keys, too: no address in memory is part of them


def test_images_without_classes() -> None:
    """Under protocol=top1 the predicted class is explained; a row an image."""
    table = assay.samples(
        (small(), *HALF), random_images(5, 12), "gradient", "average_drop", overrides=["protocol=top1", "limit=4"]
    )
    assert len(table) == 4 and (table.label == table.top).all()


@pytest.mark.filterwarnings("ignore:.*(a rate moves|are rough)")
def test_own_images_known_and_unknown() -> None:
    """Tensors as data, training and unknown sets: black images are far from all that knn has seen."""
    known, train = random_images(20, 12), (random_images(30, 12, seed=1), [0, 1] * 15)
    rows = assay.evaluate(
        (small(), *HALF),
        (known, [0, 1] * 10),
        ["knn", "msp"],
        "ood",
        train=train,
        ood={"black": torch.zeros(10, 3, 12, 12)},
        overrides=["method.knn.k=3"],
    )
    auroc = rows[(rows.stat == "auroc") & (rows.dataset == "black")].set_index("method")
    assert auroc.value["knn"] == 1.0 and auroc.reference.str.contains("InMemory").all()


def test_double_precision_is_kept() -> None:
    """A module in float64 computes in float64, unless an override says otherwise; itself it stays what it is."""
    module, image = small().double(), random_images(1, 12)[0]
    exact = assay.explain((module, *HALF), image, "gradient", 0)
    rows = assay.evaluate((module, *HALF), Squares(), "gradient", "average_drop")
    assert rows.precision.unique().tolist() == ["float64"]
    logits = module((image[None].double() - 0.5) / 0.5)
    assert exact.probability == float(
        logits.detach().softmax(1)[0, 0]
    )  # in float32 it would differ in the eighth digit
    network = assay.Network(module, *HALF)
    single = assay.explain(network, image, "gradient", 0, overrides=["precision=float32"])
    assert single.probability != exact.probability and single.probability == pytest.approx(exact.probability, rel=1e-5)
    assert module[0].weight.dtype == torch.float64 and network.mean.dtype == torch.float32


def test_a_network_that_cannot_be_traced() -> None:
    """Gradients work; a method that reads a layer says why it does not."""

    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = small()

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x if x.sum() > 0 else -x)

    image = random_images(1, 12)[0]
    assert assay.explain((Branching(), *HALF), image, "gradient", 0).map.shape == (12, 12)
    with pytest.raises(ValueError, match=r"Branching cannot be traced by torch.fx .* methods on the input gradient"):
        assay.explain((Branching(), *HALF), image, "gradcam", 0, layer="body.1")


# The caller's own


def settings() -> list[object]:
    """Torch's global state, and that of every generator."""
    backends = torch.backends
    return [
        torch.get_num_threads(),
        torch.get_deterministic_debug_mode(),
        torch.is_grad_enabled(),
        (backends.cudnn.benchmark, backends.cudnn.deterministic, backends.cudnn.allow_tf32),
        (backends.cuda.matmul.allow_tf32, backends.mha.get_fastpath_enabled()),
        torch.get_rng_state().tolist(),
        np.random.get_state(legacy=False)["state"]["key"].tolist(),
        random.getstate(),
        {key: value for key, value in os.environ.items() if key != "PYTEST_CURRENT_TEST"},
        os.getcwd(),
    ]


@pytest.fixture
def caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder, and settings that are not ours."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    torch.set_num_threads(2)
    torch.set_deterministic_debug_mode("default")
    torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = True, True
    torch.backends.mha.set_fastpath_enabled(True)
    yield tmp_path
    torch.set_num_threads(before[0])
    torch.set_deterministic_debug_mode(before[1])


@pytest.mark.filterwarnings("ignore:.*(a rate moves|are rough)")
def test_the_caller_stays_as_it_was(caller: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Threads, flags, generators, environment, the module's mode and gradients; no file, and nothing on stdout."""
    module, before = small().train(), settings()
    weights = [each.clone() for each in module.state_dict().values()]
    images = random_images(12, 12)
    assay.evaluate((module, *HALF), (images, [0, 1] * 6), "smoothgrad", "average_drop")
    assay.samples((module, *HALF), (images, [0, 1] * 6), "msp", "error_detection")
    assay.explain("scenes_vgg", random_images(1, 64)[0], "gradcam")
    fitted = assay.fit("mahalanobis", (module, *HALF), (images, [0, 1] * 6))
    fitted.score(images)
    assert settings() == before
    assert module.training and all(each.requires_grad and each.grad is None for each in module.parameters())
    assert all(torch.equal(one, other) for one, other in zip(weights, module.state_dict().values(), strict=True))
    assert list(caller.iterdir()) == []
    said = capfd.readouterr()
    assert said.out == "" and "image/s" in said.err


def test_cautions_are_warnings(capfd: pytest.CaptureFixture[str]) -> None:
    """What the command line prints of an odd network (here, of a sigmoid that is taken twice) and of an accuracy of
    guesses, in the caller's line; nothing is on stdout."""
    network = assay.Network(nn.Sequential(*small(), nn.Sigmoid()), *HALF, activation="sigmoid")
    images = random_images(40, 12)
    for methods, metrics in (("gradient", "average_drop"), ("msp", "error_detection")):
        with pytest.warns(UserWarning) as found:
            assay.evaluate(network, (images, [0, 1] * 20), methods, metrics)
        said = [str(each.message) for each in found if each.filename == __file__]
        assert any("a sigmoid inside the network is taken twice" in each for each in said)
        assert any("are classified right, and guesses would be 0.500" in each for each in said)
    with pytest.warns(UserWarning, match=r"returns logarithms of probabilities \(log_softmax\)"):
        assay.explain((nn.Sequential(*small(), nn.LogSoftmax(1)), *HALF), images[0], "gradient")
    assert capfd.readouterr().out == ""


def test_the_caller_stays_as_it_was_when_it_fails(caller: Path) -> None:
    """An error in the middle changes nothing either."""
    before = settings()
    with pytest.raises(ValueError, match="has classes 0 to 10"):
        assay.explain("scenes_vgg", random_images(1, 64)[0], "gradcam", 11)
    assert settings() == before and list(caller.iterdir()) == []


def test_the_callers_modes_change_no_number() -> None:
    """Within no_grad, inference mode, autocast and a default of its own, the map is the same to the bit."""
    image = random_images(1, 64)[0]
    expected = assay.explain("scenes_vgg", image, "gradcam", 1).map
    for mode in (torch.no_grad(), torch.inference_mode(), torch.autocast("cpu")):
        with mode:
            made = assay.explain("scenes_vgg", image.clone(), "gradcam", 1).map
        assert torch.equal(made, expected)


def test_a_network_is_frozen_for_good_and_says_so() -> None:
    """`Network` is no copy: that is documented, and what reuses it finds it as it was left."""
    module = small().train()
    assay.Network(module, *HALF)
    assert not module.training and not module[0].weight.requires_grad
    assert assay.Network.__doc__ and "frozen, not a copy" in assay.Network.__doc__


# Stores, failures


def test_results_are_kept_where_asked(tmp_path: Path) -> None:
    """The second call computes nothing; a store that lacks something says so under cache=only; off keeps nothing."""
    asked = ("scenes_vgg", "scenes", "gradcam", "pointing_game")
    with pytest.raises(ValueError, match="results of gradcam are missing"):
        assay.evaluate(*asked, results=tmp_path, overrides=["limit=4", "cache=only"])
    first = assay.evaluate(*asked, results=tmp_path, overrides=["limit=4"])
    again = assay.evaluate(*asked, results=str(tmp_path), overrides=["limit=4", "cache=only"])
    pd.testing.assert_frame_equal(first, again)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    other = assay.evaluate(*asked[:3], "average_drop", results=tmp_path, overrides=["limit=4"])
    assert other.metric.unique().tolist() == ["average_drop"] and other.index.equals(pd.RangeIndex(len(other)))
    again = assay.evaluate(*asked, results=tmp_path, overrides=["limit=4"])  # rows of the other metric lie before these
    assert again.metric.unique().tolist() == ["pointing_game"] and again.index.equals(pd.RangeIndex(len(again)))
    assay.evaluate(*asked, results=tmp_path / "no", overrides=["limit=4", "cache=off"])
    assert not (tmp_path / "no").exists()


def test_objects_are_not_kept(tmp_path: Path) -> None:
    """A key could not say what they are: each is named."""
    asked = ((small(), *HALF), Squares(), {"mine": Gradient()}, "average_drop")
    with pytest.raises(ValueError, match="model Sequential, dataset Squares, method mine came as objects"):
        assay.evaluate(*asked, results=tmp_path)
    with pytest.raises(ValueError, match="ood black came as objects"):
        black = {"black": torch.zeros(4, 3, 64, 64)}
        assay.evaluate("scenes_vgg", "scenes", "msp", "ood", ood=black, results=tmp_path, overrides=["limit=4"])
    assert list(tmp_path.iterdir()) == []


class Unknown(Squares):
    """The second image is of a class that `classes` does not name."""

    def __getitem__(self, index: int) -> Sample:
        return replace(super().__getitem__(index), targets=(index * 5,))


def test_a_class_that_nobody_has() -> None:
    """Refused by the image's name."""
    for protocol in ("labels", "predicted"):
        with pytest.raises(ConfigError, match="sample 'square1': targets: class 5 is none of the data set's, 0 to 1"):
            words = [f"protocol.targets={protocol}"]
            assay.evaluate((small(), *HALF), Unknown(), "gradient", "average_drop", overrides=words)


class Broken(Gradient):
    """Fails."""

    def attribute(self, *_: object) -> None:  # type: ignore[override]
        raise ArithmeticError("no map today")


def test_a_failure_warns_and_has_rows() -> None:
    """In the caller's line; the other methods' rows and samples are there."""
    asked = ((small(), *HALF), Squares(), {"broken": Broken(), "gradient": None}, "average_drop")
    with pytest.warns(RuntimeWarning, match="broken failed: ArithmeticError: no map today") as noted:
        rows = assay.evaluate(*asked)
    assert {each.filename for each in noted} == {__file__}
    status = rows.groupby("method").status.unique().map(set).to_dict()
    assert status["broken"] == {"failed:ArithmeticError: no map today"} and "ok" in status["gradient"]
    with pytest.warns(RuntimeWarning, match="broken failed"):
        table = assay.samples(*asked)
    assert table.method.unique().tolist() == ["gradient"]
    with pytest.warns(RuntimeWarning, match="broken failed"):
        assert assay.samples(*asked[:2], {"broken": Broken()}, "average_drop").empty


def test_a_metric_that_fails_leaves_the_others() -> None:
    """`miou` without masks: its columns are missing, those of the other metric are not."""
    with pytest.warns(RuntimeWarning, match="gradient x miou failed: ValueError: sample 'square0' has no mask"):
        table = assay.samples((small(), *HALF), Squares(), "gradient", ["average_drop", "miou"])
    assert len(table) == 2
    assert {name.split(".")[0] for name in table.columns if "." in name} == {"average_drop"}


# The names


def test_the_public_names() -> None:
    """They are there, documented, and say what they take; `samples` takes what `evaluate` takes."""
    assert dir(assay) == sorted(
        ["evaluate", "samples", "explain", "Explanation", "fit", "load", "Network", "Scorer", "__version__"]
    )
    for name in dir(assay):
        assert name == "__version__" or (getattr(assay, name).__doc__ or "").strip()
    taken = [list(inspect.signature(each).parameters) for each in (assay.evaluate, assay.samples)]
    assert taken[0] == taken[1]
    assert taken[0] == [
        *("model", "dataset", "methods", "metrics", "train", "ood", "results", "layer", "tolerance_px", "overrides")
    ]
    with pytest.raises(AttributeError, match=r"has no attribute 'evalute'; it has .*evaluate"):
        _ = assay.evalute
    with pytest.raises(TypeError, match="unexpected keyword argument 'limit'"):
        assay.evaluate("scenes_vgg", "scenes", "center", "pointing_game", limit=3)  # type: ignore[call-arg]


def test_weights_of_a_config_are_an_override(tmp_path: Path) -> None:
    """As on the command line: a file of other weights gives other numbers."""
    from safetensors.torch import save_file

    torch.manual_seed(1)
    save_file(ScenesVGG().state_dict(), tmp_path / "mine.safetensors")
    image, word = random_images(1, 64)[0], f"model.weights={tmp_path / 'mine.safetensors'}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other = assay.explain("scenes_vgg", image, "gradient", 1, overrides=[word])
    assert not torch.equal(other.map, assay.explain("scenes_vgg", image, "gradient", 1).map)
