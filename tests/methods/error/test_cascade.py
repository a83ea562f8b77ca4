"""Cascades: the second network is asked by itself, of scored images alone; refused where it cannot stand in."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from assay.harness import launch
from assay.harness.build import build
from assay.harness.config import Choice, ConfigError, RunConfig
from assay.harness.detection import Features
from assay.harness.detectors.plan import TEST, TRAIN, build_detection
from assay.harness.detectors.readings import described
from assay.harness.forward import ForwardPass
from assay.harness.network import Network
from assay.harness.overrides import compose_config
from assay.harness.seeds import SampleRng
from assay.harness.types import Sample
from assay.methods.error.cascade import Cascade, SecondOpinion
from assay.methods.error.conductance import ErrorMLP
from assay.methods.ood.logits import MSP
from assay.methods.ood.odin import ODIN
from torch import Tensor, nn

import assay
from assay.given import network_of

NOBODY = SampleRng(0, "SecondOpinion", [], [])


class First(nn.Module):
    """Logits [B,classes] of an image: its first pixel's channels times `scale`, and zeros."""

    def __init__(self, scale: list[float], classes: int = 3) -> None:
        super().__init__()
        self.scale, self.classes = nn.Parameter(torch.tensor(scale, dtype=torch.float32)), classes

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x[:, :, 0, 0] * self.scale, [0, self.classes - 3])


def network(*scale: float, mean: float = 0.0, classes: int = 3) -> Network:
    """`First`, with its own normalisation and fingerprint."""
    return Network(First(list(scale), classes), [mean] * 3, [1.0] * 3, fingerprint=f"{scale} {mean}")


def linear(classes: int, seed: int = 0) -> Network:
    """Whose last layer says how many classes it has."""
    torch.manual_seed(seed)
    return Network(nn.Sequential(nn.Flatten(), nn.Linear(12, classes)), [0.0] * 3, [1.0] * 3, fingerprint=f"{seed}")


def unnamed(seed: int) -> Network:
    """`linear`, given as people give objects: nobody has taken its fingerprint."""
    made = linear(3, seed)
    made.fingerprint = ""
    return made


IMAGES = torch.tensor([[0.1, 0.2, 0.9], [0.8, 0.3, 0.2], [0.6, 0.7, 0.1]])[:, :, None, None].expand(-1, -1, 2, 2)


def test_the_second_opinion_by_hand() -> None:
    """The first network takes the largest channel: 2 0 1. The second, which takes out a mean of .5 and turns the sign,
    takes the smallest: 0 2 2. A pass of it each is counted with the first network's."""
    first, second = network(1, 1, 1), network(-1, -1, -1, mean=0.5)
    forward = ForwardPass(first, IMAGES)
    assert forward.logits.argmax(1).tolist() == [2, 0, 1]
    counted = first.passes.forward
    assert SecondOpinion(second).read(forward, NOBODY, {}).tolist() == [0, 2, 2]
    assert first.passes.forward == counted + 3


def test_it_is_asked_in_the_run_s_precision() -> None:
    """A network of float64 beside one of float32, as `precision=float64` leaves them."""
    first, second = network(1, 1, 1).to(dtype=torch.float64), network(-1, -1, -1)
    assert SecondOpinion(second).read(ForwardPass(first, IMAGES), NOBODY, {}).tolist() == [0, 2, 2]


def test_scores_are_the_detector_s_and_details_the_other_network_s() -> None:
    cascade = Cascade(MSP(), network(-1, -1, -1))
    (reading,) = cascade.needs().readings
    logits, labels, opinion = torch.randn(3, 3), torch.zeros(3, dtype=torch.int64), torch.tensor([0, 2, 2])
    features = Features(logits, labels, readings={reading: opinion})
    assert torch.equal(cascade.score(features, {}), MSP().score(features, {}))
    assert cascade.details(features, {})["larger"].tolist() == [0, 2, 2]


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        (network(1, 1, 1), None, r"larger=null: a cascade needs a second network, model@method.cascade.larger=NAME"),
        (network(1, 1, 1), network(1, 1, 1), "larger is the network itself"),
        (network_of(unnamed(0)), unnamed(0), "larger is the network itself"),
        (linear(3), linear(4, seed=1), "Sequential tells 4 classes apart and Sequential 3"),
    ],
    ids=["none", "itself", "a copy", "classes"],
)
def test_what_is_no_cascade_is_refused(first: Network, second: Network | None, says: str) -> None:
    """By name, before anything is computed."""
    with pytest.raises(ValueError, match=says):
        SecondOpinion(second).about(first)


@pytest.mark.parametrize(
    ("second", "says"),
    [
        (network(1, 1, 2, classes=4), "First tells 4 classes apart and First 3"),
        (network(1, float("nan"), 2), "larger: First returned logits that are not finite"),
    ],
    ids=["classes", "nan"],
)
def test_what_only_a_pass_shows_is_refused(second: Network, says: str) -> None:
    """Networks that end in no linear layer do not say their classes; a class of NaN would be read as 0."""
    first = network(1, 1, 1)
    SecondOpinion(second).about(first)
    with pytest.raises(ValueError, match=says):
        SecondOpinion(second).read(ForwardPass(first, IMAGES), NOBODY, {})


def test_a_detector_that_looks_at_images_is_refused() -> None:
    with pytest.raises(ValueError, match="detector=ODIN looks at images again"):
        Cascade(ODIN(), network(1, 1, 1))


def test_networks_without_fingerprints_are_told_apart() -> None:
    """By their weights: those of a key share what is kept; a pass in another precision does not make another of one."""
    first, opinions = linear(3), [SecondOpinion(unnamed(seed)) for seed in (1, 2, 1)]
    one, other, again = (opinion.about(first) for opinion in opinions)
    assert one != other and one == again
    assert opinions[0].read(ForwardPass(first.to(dtype=torch.float64), IMAGES), NOBODY, {}).shape == (3,)
    assert opinions[0].about(linear(3)) == one


def test_objects_of_the_same_weights_are_told_apart_by_what_they_print() -> None:
    """The other activation has no weights."""

    def about(activation: nn.Module) -> dict[str, Any]:
        torch.manual_seed(1)
        module = nn.Sequential(nn.Flatten(), activation, nn.Linear(12, 3))
        return SecondOpinion(Network(module, [0.0] * 3, [1.0] * 3)).about(linear(3))

    assert about(nn.ReLU()) == about(nn.ReLU()) != about(nn.GELU())


@pytest.mark.parametrize("settings", [{"spatial": "mean"}, {"sha256": "0123"}], ids=["other", "same"])
def test_settings_that_are_no_weights_are_in_the_key(settings: dict[str, Any]) -> None:
    """The same weights, and another way from positions to logits: other answers, so another key. Where a file lies
    is none of it."""
    about: dict[str, Any] = {"_target_": "assay.harness.networks.loading.caffe_network", "architecture": "resnet50"}
    about |= {
        "weights": None,
        "sha256": None,
        "classes": 20,
        "pixel_mean": [104.0, 117.0, 124.0],
        "spatial": "log_mean_exp",
    }
    made: list[Network] = [build(Choice("model", "caffe", {**about, **each})) for each in ({}, settings)]
    assert made[0].fingerprint == made[1].fingerprint
    one, other = (described(SecondOpinion(each), linear(20)) for each in made)
    assert (one == other) == ("sha256" in settings)


@pytest.mark.filterwarnings("ignore")
def test_unknown_images_may_have_several_labels() -> None:
    """Their labels are of other classes, and say nothing of predictions; those of a known set do."""
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(20, 3, 2, 2, generator=generator), torch.randint(0, 3, (20,), generator=generator)
    given = (linear(3), (images, labels), {"cascade": Cascade(MSP(), linear(3, 1)), "msp": MSP()}, ["ood"])
    rows = assay.evaluate(*given, ood={"voc": Pairs(images)}, overrides=["metric.ood.resamples=20"])
    values = rows[rows.stat == "auroc"].groupby("method")["value"].first()
    assert (rows.status == "ok").all() and values["cascade"] == values["msp"]


class Pairs:
    """A data set of images with two labels each."""

    classes, split = ("p", "q"), "test"

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return Sample(f"pair{index}", self.images[index], (0, 1), (2, 2))

    def fingerprint(self) -> str:
        """Of the images."""
        return "pairs"


# In a run

SMALL = [
    *("experiment=cascade_embedded", "dataset.size=24", "validation.size=16", "train.size=60"),
    *("method@method.cascade.detector=conductance_mlp", "method.cascade.detector.epochs=2"),
    *("metric.error_detection.resamples=20", "compute.device=cpu", "compute.processes=1"),
]


def config(results: Path, *words: str) -> RunConfig:
    """Of a small run."""
    return compose_config([*SMALL, *words, f"results={results}"])


@pytest.mark.filterwarnings("ignore:.*training errors")
def test_a_run_by_direct_calls(tmp_path: Path) -> None:
    """The embedded networks on hard scenes, with a detector that is fitted: its scores are those of the detector by
    itself; the second network's classes, its accuracy and the cascade's those of direct passes; exactly. It is asked of
    no training image. The same run again computes nothing."""
    words = ("method=[cascade,conductance_mlp]", "method.conductance_mlp.epochs=2")
    assert launch.run(config(tmp_path, *words), []) == 0
    detection = build_detection(config(tmp_path, *words), tmp_path / "store")
    test = detection.sets[TEST]
    table, alone = test.table("cascade"), test.table("conductance_mlp")
    assert table["score"].tolist() == alone["score"].tolist()
    samples = [test.images.dataset[index] for index in range(24)]
    made: Network = build(compose_config(["model=scenes_resnet"]).model)
    with torch.no_grad():
        classes = made(made.normalise(torch.stack([each.image for each in samples]))).argmax(1)
    assert table["larger"].tolist() == classes.tolist()
    rows = pd.read_csv(tmp_path / "tidy/results.csv").query("method == 'cascade'").set_index(["stat", "variant"])
    threshold = float(rows.loc[("threshold", "close_recall"), "value"])
    flagged, label = table["score"] >= threshold, table["label"]
    answers = table["larger"].where(flagged, table["predicted"])
    assert float(rows.loc[("cascade_accuracy", "close_recall"), "value"]) == pytest.approx((answers == label).mean())
    assert float(rows.loc[("passed_on", "close_recall"), "value"]) == pytest.approx(flagged.mean())
    title = next(each for each in test.features.titled if each.startswith("SecondOpinion"))
    assert title not in detection.at(TRAIN).features.groups
    assert detection.incomplete() == []


def test_keys_are_of_content(tmp_path: Path) -> None:
    """The second network's file moved: the same cell, which names no place. What else its network is, is in the key."""
    embedded = Path("harness/networks/embedded/scenes_resnet.safetensors")
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(embedded.read_bytes())

    def identity(*words: str) -> dict[str, Any]:
        detection = build_detection(config(tmp_path, "method=[cascade]", *words), tmp_path / "store")
        return detection.sets[TEST].cells["cascade"].about["identity"]

    own = identity()
    assert own == identity(f"method.cascade.larger.weights={moved}")
    assert "safetensors" not in str(own["method"])
    first, second = network(1, 1, 1), network(-1, -1, -1)
    about = SecondOpinion(second).about(first)
    for other in (network(-1, -1, -2), network(-1, -1, -1, mean=0.5), linear(3)):
        assert SecondOpinion(other).about(first) != about


def test_images_of_several_labels_are_refused(tmp_path: Path) -> None:
    """A score table keeps one label an image, the one that the first network predicts if it may: the second network's
    other right answer would count as wrong."""
    assert launch.run(config(tmp_path, "method=[cascade]", "dataset.objects=[2,2]"), []) != 0
    rows = pd.read_csv(tmp_path / "tidy/results.csv")
    assert rows["value"].isna().all() and rows["status"].str.contains("has several labels").all()


def test_labels_of_known_sets_are_checked(tmp_path: Path) -> None:
    """Test, validation, training, and sets of the test set's classes: there a prediction is right or wrong."""
    words = ("metric=[error_detection,ood]", "ood=[corrupted_noise,scenes_noise]")
    every = build_detection(config(tmp_path, *words), tmp_path / "store").everywhere()
    assert [each.images.name for each in every if not each.features.known] == ["scenes_noise"]
    assert len(every) == 5


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["~model@method.cascade.larger"], "method cascade: larger=null: a cascade needs a second network"),
        (["model@method.cascade.larger=scenes_vgg"], "method cascade: larger is the network itself"),
        (["model@method.cascade.larger=scenes_resnot"], "'scenes_resnot' is not a model"),
        (
            ["model@method.cascade.larger=resnet18", "method=[msp]"],
            r"method cascade is not chosen: method=\[msp,cascade",
        ),
    ],
    ids=["none", "itself", "misspelt", "not chosen"],
)
def test_the_command_line_is_refused_by_name(tmp_path: Path, words: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build_detection(config(tmp_path, "method=[cascade]", *words), tmp_path / "store")


def test_a_fit_s_detector_is_the_same_object_s() -> None:
    """What a cascade needs is what its detector needs, and the opinion, of which a fit sees nothing."""
    inner = ErrorMLP()
    needs = Cascade(inner, network(-1, -1, -1)).needs()
    assert replace(inner).needs() == needs._replace(readings=())
    assert needs.learned == ()
