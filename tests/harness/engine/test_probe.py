"""One look at a run's network: what would give wrong numbers is refused before anything is computed, with the mend."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from assay.harness import launch
from assay.harness.attribution.gallery import draw_gallery
from assay.harness.attribution.maps import export_maps
from assay.harness.attribution.plan import build_job
from assay.harness.config import Choice, ConfigError, RunConfig
from assay.harness.engine.job import Job
from assay.harness.engine.probe import PROBED
from assay.harness.forward import ForwardPass
from assay.harness.network import Network
from assay.harness.overrides import compose_config
from assay.harness.store.store import SAMPLES
from assay.harness.types import Sample
from field_networks import field_network
from torch import Tensor, nn

import assay

ATTRIBUTION = ["method=[gradient]", "metric=[positive_ratio]"]
DETECTION = ["method=[msp]", "metric=[error_detection]"]
LAYERS = ["method=[gradcam,gradient,lrp_epsilon]", "method.gradcam.layer=trunk.c2", "metric=[positive_ratio]"]
WINGS = pytest.mark.parametrize("wing", [ATTRIBUTION, DETECTION], ids=["attribution", "detectors"])


class Pictures:
    """Seeded images with one class each, in turn."""

    split = "test"

    def __init__(self, classes: Sequence[str] = ("a", "b", "c"), count: int = 8, bad: int | None = None) -> None:
        self.classes, self.bad = classes, bad
        self.images = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        image = self.images[index] if index != self.bad else torch.full((3, 16, 16), 0.5)
        return Sample(f"picture{index}", image, (index % len(self.classes),), (16, 16))

    def fingerprint(self) -> str:
        return "pictures"


def config_of(network: Network, results: Path, words: Sequence[str], data: Any = None) -> RunConfig:
    """A run of a network on pictures."""
    small = ["compute.device=cpu", "compute.processes=1", f"results={results}"]
    config = compose_config([*words, *small])
    config.model = Choice("model", "field", {"_target_": "field"}, made=network)
    config.dataset = Choice("dataset", "pictures", {"_target_": "pictures"}, made=data or Pictures())
    return config


def of_kind(kind: str, **settings: Any) -> Network:
    """A field network on RGB images."""
    return Network(field_network(kind), **{"mean": [0.5] * 3, "std": [0.25] * 3, "fingerprint": kind, **settings})


def run(network: Network, results: Path, words: Sequence[str], data: Any = None) -> pd.DataFrame:
    """Run it; the tidy table."""
    assert launch.run(config_of(network, results, words, data), []) == 0
    return pd.read_csv(results / "tidy/results.csv")


@WINGS
@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("tuple", r"field: Ending returns a tuple of 2 \(.*\).*output=0 \(\+model\.output="),
        ("dict", r"returns a dict of features .*, logits .*: say .* output=logits"),
        ("map", r"returns \[\d, 3, 2, 2\] for \d images, not logits \[B,C\]: pool or flatten"),
        ("one_logit_squeezed", r"returns \[\d\] .*one logit an image is two classes: activation=binary"),
        ("one_logit", r"field has one output, whose softmax is always 1: activation=binary"),
        ("softmax", r"field returns probabilities .*Take the softmax out of the module"),
        ("dropout", r"other logits the second time .*training=self.training"),
        ("noise", r"other logits the second time .*draw nothing in eval mode"),
        ("spatial_statistics", r"other logits alone than in a batch .*track_running_stats=False"),
        ("batch_statistics", r"other logits alone than in a batch .*track_running_stats=False"),
        ("grey", r"reads 1 channels and gets 3 of pictures: the network's mean and std .*here they have 3"),
    ],
)
def test_a_network_that_would_give_wrong_numbers_is_refused(
    kind: str, why: str, wing: list[str], tmp_path: Path
) -> None:
    """By a ConfigError (exit code 2) that says the mend, before any cell has a shard."""
    with pytest.raises(ConfigError, match=why):
        launch.run(config_of(of_kind(kind), tmp_path, wing), [])
    assert not list(tmp_path.rglob("*.parquet"))


def job_of(network: Network, folder: Path) -> Job:
    return build_job(config_of(network, folder, ATTRIBUTION), folder)


DOORS: dict[str, Callable[[Network, Path], Any]] = {
    "gallery": lambda network, folder: draw_gallery(job_of(network, folder), folder / "gallery.png", 1),
    "maps": lambda network, folder: export_maps(job_of(network, folder), folder, 1),
    "explain": lambda network, folder: assay.explain(network, Pictures().images[0], "gradient"),
    "fit": lambda network, folder: assay.fit("mahalanobis", network, (Pictures(count=30).images, [0, 1, 2] * 10)),
    "score": lambda network, folder: assay.fit("msp", network).score(Pictures().images),
}


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("softmax", "returns probabilities .*Take the softmax out of the module"),
        ("dropout", "other logits the second time .*training=self.training"),
        ("spatial_statistics", "other logits alone than in a batch .*track_running_stats=False"),
        ("grey", "reads 1 channels and gets 3 of"),
        ("map", r"returns \[\d, 3, 2, 2\] for \d images, not logits"),
    ],
)
def test_every_way_to_a_network_takes_the_same_look(
    kind: str, why: str, door: Callable[[Network, Path], Any], tmp_path: Path
) -> None:
    """As a run of either wing: ConfigError with the mend, and nothing is written."""
    if door is DOORS["fit"] and kind in ("softmax", "dropout"):
        pytest.skip("without a linear layer at the end, which this detector misses before")
    with pytest.raises(ConfigError, match=why):
        door(of_kind(kind), tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".png", ".npz")]


def test_single_explanations_look_once() -> None:
    """Of the same network: one pass of one image for the map after the first call."""
    network = of_kind("plain")
    before = network.passes.forward
    counts = []
    for image in Pictures().images[:3]:
        assay.explain(network, image, "gradient")
        counts.append(network.passes.forward - before)
    assert [later - earlier for earlier, later in pairwise(counts)] == [1, 1]
    assert counts[0] > 1


class OfTwo(nn.Module):
    """A network for batches of two images of one size."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = field_network("plain")

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.view(2, 3, 16, 16))


@WINGS
def test_whatever_stops_a_network_is_one_line(wing: list[str], tmp_path: Path) -> None:
    """A ConfigError (no traceback) with the error's own words."""
    network = Network(OfTwo(), [0.5] * 3, [0.25] * 3, fingerprint="two")
    with pytest.raises(ConfigError, match=r"model field cannot be run on images of pictures \(RuntimeError: shape"):
        launch.run(config_of(network, tmp_path, wing), [])


@pytest.mark.parametrize(("kind", "mend"), [("tuple", "output=0"), ("dict", "output=logits")])
def test_a_layer_of_a_network_with_several_outputs_is_looked_for_after_the_mend(
    kind: str, mend: str, tmp_path: Path
) -> None:
    """The plan cuts the graph at a layer before any pass: the same refusal, with the graph's names."""
    with pytest.raises(ConfigError, match=rf"model field: Ending returns a {kind} of .*fc.*: say .*{mend} "):
        launch.run(config_of(of_kind(kind), tmp_path, LAYERS), [])


@pytest.mark.parametrize(("kind", "mend"), [("tuple", "output=0"), ("dict", "output=logits")])
def test_a_detector_of_a_layer_likewise(kind: str, mend: str, tmp_path: Path) -> None:
    words = ["method=[mahalanobis]", "method.mahalanobis.layers=[trunk.c2]", "metric=[error_detection]"]
    config = config_of(of_kind(kind), tmp_path, words)
    config.train = Choice("dataset", "train", {"_target_": "pictures"}, made=Pictures(count=30))
    with pytest.raises(ConfigError, match=rf"model field: Ending returns a {kind} of .*: say .*{mend} "):
        launch.run(config, [])


@WINGS
def test_more_classes_than_outputs_are_refused_and_fewer_are_not(wing: list[str], tmp_path: Path) -> None:
    """Four classes on three outputs; two classes on three are normal, and predictions need no labels (top1)."""
    four = Pictures(("a", "b", "c", "d"))
    with pytest.raises(ConfigError, match=r"pictures has 4 classes \(a, b, c, d\) and field 3 outputs: choose"):
        launch.run(config_of(of_kind("plain"), tmp_path, wing, four), [])
    run(of_kind("plain"), tmp_path, wing, Pictures(("a", "b")))
    if wing is ATTRIBUTION:
        run(of_kind("plain"), tmp_path, [*wing, "protocol.targets=top1"], four)


def test_classes_of_the_training_set_are_counted_too(tmp_path: Path) -> None:
    """A fit on labels that no output has would raise IndexError, or take some other class' weights."""
    config = config_of(of_kind("plain"), tmp_path, ["method=[mahalanobis]", "metric=[error_detection]"])
    config.train = Choice("dataset", "four", {"_target_": "pictures"}, made=Pictures(("a", "b", "c", "d"), 16))
    with pytest.raises(ConfigError, match="four has 4 classes"):
        launch.run(config, [])


@WINGS
def test_logits_that_are_no_numbers_name_their_images(
    wing: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the first batch the run is refused; later on its methods fail, naming the image. (One that is 0 when it is
    normalised, of a network that divides by the largest value.)"""
    with pytest.raises(ConfigError, match="field: logits of picture2 are not finite: look at these images"):
        launch.run(config_of(of_kind("divided"), tmp_path, wing, Pictures(bad=2)), [])
    assert launch.run(config_of(of_kind("divided"), tmp_path, wing, Pictures(bad=7)), []) == 1
    assert "logits of picture7 are not finite" in capsys.readouterr().err


@WINGS
@pytest.mark.parametrize(
    ("kind", "activation", "said"),
    [
        ("log_softmax", "softmax", "returns logarithms of probabilities (log_softmax)"),
        ("sigmoid", "sigmoid", "a sigmoid inside the network is taken twice"),
        ("sigmoid", "softmax", "a sigmoid inside the network makes probabilities, whose softmax is taken"),
        ("plain", "softmax", None),
        ("plain", "sigmoid", None),
    ],
)
def test_what_only_looks_like_probabilities_is_said(
    kind: str, activation: str, said: str | None, wing: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(of_kind(kind, activation=activation), tmp_path, wing)
    shown = capsys.readouterr().out
    assert said in shown if said else "probabilities" not in shown and "sigmoid" not in shown


@pytest.mark.parametrize("count", [1, 2, 8])
def test_the_probe_costs_a_small_batch_and_two_images_once(count: int, tmp_path: Path) -> None:
    """Counted in the network's passes; an image without neighbours gets one; the same command again sends nothing."""
    network, words = of_kind("plain"), ["method=[center]", "metric=[positive_ratio]"]
    run(network, tmp_path, words, Pictures(count=count))
    probed = max(2, min(count, PROBED)) + 2
    assert network.passes.forward == probed + count
    run(network, tmp_path, words, Pictures(count=count))
    assert network.passes.forward == probed + count


def test_a_single_image_is_told_from_its_neighbours_too(tmp_path: Path) -> None:
    """A run of one image has no batch; the probe makes one."""
    with pytest.raises(ConfigError, match="alone than in a batch"):
        launch.run(config_of(of_kind("spatial_statistics"), tmp_path, ATTRIBUTION, Pictures(count=1)), [])


# What the mends give


@pytest.mark.parametrize(("kind", "output"), [("tuple", 0), ("dict", "logits")])
def test_the_output_that_is_named_is_read(kind: str, output: int | str, tmp_path: Path) -> None:
    """Every number is that of the network that returns its logits alone: maps, layers, detectors, features."""
    for number, wing in enumerate((ATTRIBUTION, LAYERS, DETECTION)):
        plain = run(of_kind("plain", fingerprint="same"), tmp_path / f"plain{number}", wing)
        found = run(of_kind(kind, fingerprint="same", output=output), tmp_path / f"{kind}{number}", wing)
        pd.testing.assert_frame_equal(found, plain)


def test_the_output_of_a_config_is_read_and_is_part_of_the_key(tmp_path: Path) -> None:
    """`output: 1` in the model's config, whatever function builds the network; features are not logits' numbers."""
    tables = {}
    words = ["method=[center]", "metric=[positive_ratio]"]
    for output in (0, 1):
        config = config_of(of_kind("tuple"), tmp_path / str(output), words)
        config.model.notes["output"] = output
        assert launch.run(config, []) == 0
        tables[output] = pd.read_csv(tmp_path / str(output) / "tidy/results.csv")
    assert set(tables[0]["cell_key"]).isdisjoint(tables[1]["cell_key"])
    config = config_of(of_kind("tuple"), tmp_path, words)
    config.model.notes["output"] = "scores"
    with pytest.raises(ConfigError, match=r"output='scores' is not in what Ending returns, a tuple of 2"):
        launch.run(config, [])


@pytest.mark.parametrize("kind", ["one_logit", "one_logit_squeezed"])
def test_one_logit_is_two_classes(kind: str) -> None:
    """Logits [-z, z], probabilities 1 - sigmoid(z) and sigmoid(z); maps of the classes are each other's negatives."""
    module, images = field_network(kind), Pictures().images
    network = Network(module, [0.5] * 3, [0.25] * 3, "binary")
    z = module((images - 0.5) / 0.25).view(-1)
    forward, traced = ForwardPass(network, images), ForwardPass(network, images, ("trunk.c2",))
    for each in (forward, traced):
        torch.testing.assert_close(each.logits, torch.stack([-z, z], 1).detach())
    torch.testing.assert_close(forward.probabilities, torch.stack([(-z).sigmoid(), z.sigmoid()], 1).detach())
    assert network.predicts(forward.logits).tolist() == [[value < 0, value > 0] for value in z.tolist()]


@pytest.mark.parametrize("kind", ["one_logit", "one_logit_squeezed"])
def test_a_binary_network_runs_through_both_wings(kind: str, tmp_path: Path) -> None:
    """Two classes: the higher one is that of the sign, and the logit of the negative class is -z."""
    data, network = Pictures(("no", "yes")), of_kind(kind, activation="binary")
    config = config_of(network, tmp_path, LAYERS, data)
    assert launch.run(config, []) == 0
    (key,) = {p.parent for p in tmp_path.rglob("*.parquet") if p.parent.name == SAMPLES and "gradient" in _about(p)}
    table = pd.concat(map(pd.read_parquet, sorted(key.glob("*.parquet"))))
    z = field_network(kind)((data.images - 0.5) / 0.25).view(-1).detach()
    assert table["top"].tolist() == (z > 0).long().tolist()
    assert table["logit"].tolist() == pytest.approx([float(v if i % 2 else -v) for i, v in enumerate(z)], abs=1e-6)
    run(network, tmp_path / "detectors", DETECTION, data)


def _about(path: Path) -> str:
    return next(path.parents[1].glob("*.json")).read_text()


def test_two_classes_on_one_sigmoid_output_are_named(tmp_path: Path) -> None:
    """A sigmoid of one output is one class; two need `binary`."""
    with pytest.raises(ConfigError, match=r"2 classes \(no, yes\) and field 1 outputs: one output is two classes with"):
        launch.run(
            config_of(of_kind("one_logit", activation="sigmoid"), tmp_path, ATTRIBUTION, Pictures(("no", "yes"))), []
        )
    run(of_kind("one_logit", activation="sigmoid"), tmp_path, ATTRIBUTION, Pictures(("yes",)))


def test_a_one_channel_network_sees_grey_images(tmp_path: Path) -> None:
    """Its mean has one number: Y = .299 R + .587 G + .114 B of each pixel, then (Y - mean) / std."""
    data, network = Pictures(), of_kind("grey", mean=[0.4], std=[0.2])
    images = data.images
    grey = (0.299 * images[:, 0] + 0.587 * images[:, 1] + 0.114 * images[:, 2])[:, None]
    torch.testing.assert_close(ForwardPass(network, images).logits, field_network("grey")((grey - 0.4) / 0.2).detach())
    run(network, tmp_path / "maps", ["method=[gradient,rise]", "method.rise.masks=8", "metric=[positive_ratio]"])
    run(network, tmp_path / "scores", DETECTION)


def test_images_that_were_grey_stay_what_they_were() -> None:
    """Equal channels: the conversion is the identity, to rounding."""
    grey = torch.rand(2, 1, 4, 4)
    network = Network(nn.Identity(), [0.4], [0.2])
    torch.testing.assert_close(network.normalise(grey.expand(-1, 3, -1, -1)), network.normalise(grey))


def _module_of(images: Tensor) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 3))


def test_a_network_whose_logits_hardly_differ_between_images_is_not_refused(tmp_path: Path) -> None:
    """Rounding at large logits is no dependence on the batch."""
    module = _module_of(Pictures().images).eval()
    with torch.no_grad():
        module.get_parameter("1.bias").fill_(1e6)
    run(Network(module, [0.5] * 3, [0.25] * 3, fingerprint="large"), tmp_path, ATTRIBUTION)


class Colours(Pictures):
    """Red, green and blue pictures, which the network tells apart; `order`: the data's number of each colour."""

    def __init__(self, classes: Sequence[str], order: Sequence[int]) -> None:
        super().__init__(classes, 60)
        self.order = order
        for index, image in enumerate(self.images):
            image[index % 3] += 1
        self.images /= 2

    def __getitem__(self, index: int) -> Sample:
        return Sample(f"picture{index}", self.images[index], (self.order[index % 3],), (16, 16))


class ByColour(nn.Module):
    """The mean of each channel."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


@WINGS
def test_an_accuracy_of_guesses_is_said(wing: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Class folders 1, 2, 10 in the order of text give two classes of three each other's numbers: accuracy 1/3."""
    network = Network(ByColour(), [0.5] * 3, [0.25] * 3, fingerprint="colour")
    words = [word.replace("gradient", "center") for word in wing]
    run(network, tmp_path / "text", words, Colours(("1", "10", "2"), (0, 2, 1)))
    assert "caution: 0.333 of the 60 images of pictures are classified right, and guesses would be 0.333: " in (
        shown := " ".join(capsys.readouterr().out.split())
    )
    assert "(1, 10, 2) in the order of the network's outputs" in shown
    run(network, tmp_path / "number", words, Colours(("1", "2", "10"), (0, 1, 2)))
    assert "classified right" not in capsys.readouterr().out
