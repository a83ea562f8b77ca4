"""A detector in memory scores as a run does, to the bit; a file gives it back, and nothing else."""

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from assay.harness.config import CONF, ConfigError
from assay.harness.detectors import scorer
from assay.harness.detectors.plan import TEST
from assay.harness.detectors.run import DetectorRun
from assay.harness.detectors.scorer import KIND, Scorer
from assay.harness.engine.rank import Rank
from assay.harness.engine.request import Request
from assay.harness.network import Network
from assay.harness.overrides import compose_config
from assay.methods.ood.knn import KNN
from conftest import TOY_INPUT, ToyModule, random_images
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import assay

DETECTORS = ["msp", "knn", "mahalanobis", "react", "odin", "logits_mlp", "conductance_mlp", "adascale"]
FEW = [
    "train.limit=120",
    "compute.device=cpu",
    "method.knn.k=5",
    "method.logits_mlp.epochs=2",
    "method.adascale.samples=16",
]
FEW += [
    "method.conductance_mlp.epochs=2",
    "method.conductance_mlp.layer=layer2",
    "method.conductance_mlp.steps=2",
]
COUNT = 40  # 32 and 8: two shards, the first of two batches
TOY = (ToyModule(), (0.5,) * 3, (0.125,) * 3)

Fit = Callable[[str], Scorer]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> DetectorRun:
    """A computed run of all detectors, on images with one label each."""
    words = ["model=scenes_resnet", "dataset@train=scenes_train", "dataset.objects=[1,1]", "metric=[error_detection]"]
    words += [f"method=[{','.join(DETECTORS)}]", f"limit={COUNT}", "compute.processes=1", *FEW]
    made = DetectorRun.of(Request.of(compose_config(words), tmp_path_factory.mktemp("store")))
    made.prepare(Rank(0, 1))
    assert made.compute(Rank(0, 1)).failures == {}
    return made


@pytest.fixture(scope="module")
def images(run: DetectorRun) -> Tensor:
    """Those that the run scored."""
    data = run.detection.sets[TEST].images.dataset
    return torch.stack([data[index].image for index in range(COUNT)])


@pytest.fixture(scope="module")
def fitted(run: DetectorRun) -> Fit:
    """Each detector fitted from Python, once."""
    made: dict[str, Scorer] = {}

    def fit(name: str) -> Scorer:
        if name not in made:
            own = [word for word in FEW if not word.startswith("method.") or word.startswith(f"method.{name}.")]
            made[name] = assay.fit(name, "scenes_resnet", "scenes_train", overrides=own)
        return made[name]

    return fit


def scores_of(run: DetectorRun, name: str) -> np.ndarray:
    """The run's, in order."""
    table: pd.DataFrame = run.detection.sets[TEST].table(name)
    return table["score"].to_numpy()


# Scores


@pytest.mark.parametrize("name", DETECTORS)
def test_scores_are_the_runs(name: str, run: DetectorRun, images: Tensor, fitted: Fit) -> None:
    """To the bit, of detectors that are fitted or not, read features or look at images."""
    scores = fitted(name).score(images)
    assert np.array_equal(scores.numpy(), scores_of(run, name)) and scores.std() > 0


@pytest.mark.parametrize("name", DETECTORS)
def test_a_score_is_the_images_own(name: str, images: Tensor, fitted: Fit) -> None:
    """Alone, in another order, in a larger batch: equal up to rounding."""
    scorer = fitted(name)
    whole = scorer.score(images)
    few = torch.cat([scorer.score(images[k : k + 1]) for k in (0, 7, 39)])
    assert torch.allclose(few, whole[[0, 7, 39]], rtol=1e-4, atol=1e-5)
    assert torch.allclose(scorer.score(images.flip(0)).flip(0), whole, rtol=1e-4, atol=1e-5)
    assert scorer.score(images[:0]).shape == (0,)


def test_scores_by_hand() -> None:
    """The toy's logits of its image are -5 and 1 (conftest): max_logit is -1, and margin -(1 + 5)."""
    image = TOY_INPUT / 8 + 0.5
    pixels = image.repeat(2, 1, 1, 1) / 4  # outside of [0,1] as it stands: scaled, with mean and deviation
    model = (TOY[0], (0.125,) * 3, (0.03125,) * 3)
    assert assay.fit("max_logit", model).score(pixels).tolist() == [-1.0, -1.0]


def test_what_is_fitted_by_hand() -> None:
    """Of knn on the toy: the distance to the nearest of two training features, all of length 1.

    Colours (1,1,1) and (0,-1,1) of both pixels, normalised, have the features (2,2,0,0) and (0,0,2,2); (1,0,1) has
    (1,1,1,1), which is at 1/sqrt(2) of either: sqrt(2 - sqrt(2)).
    """
    colours = torch.tensor([[1.0, 1, 1], [0, -1, 1], [1, 0, 1]]) / 8 + 0.5
    images = colours[:, :, None, None].expand(3, 3, 1, 2)
    scorer = assay.fit("knn", TOY, (images[:2], [0, 1]), overrides=["method.knn.k=1"])
    assert scorer.score(images).tolist() == pytest.approx([0, 0, (2 - 2**0.5) ** 0.5], abs=1e-6)
    assert repr(scorer) == "<knn of ToyModule, fitted: neighbours [2, 4]>"
    assert repr(assay.fit("msp", TOY)) == "<msp of ToyModule, fitted: nothing>"


def test_nothing_is_read_where_nothing_is_learned() -> None:
    """`msp` of a network that takes no image of the embedded data."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 5 * 7, 2))
    scores = assay.fit("msp", (module, [0.5] * 3, [0.5] * 3)).score(torch.rand(4, 3, 5, 7))
    assert scores.shape == (4,)


def test_threads_and_parts_are_the_configs() -> None:
    """And the caller's number of threads comes back."""
    scorer = assay.fit("msp", TOY, overrides=["compute.threads=2", "compute.batch_size=3"])
    assert (scorer.compute.threads, scorer.compute.batch_size) == (2, 3)
    images = random_images(4, 2)[:, :, :1]
    scorer.score(images)  # the first time there is a look at the network, too
    before = torch.get_num_threads()
    seen: list[tuple[int, int]] = []
    hook = scorer.network.module.register_forward_hook(lambda *a: seen.append((len(a[2]), torch.get_num_threads())))
    scorer.score(images)
    hook.remove()
    assert seen == [(3, 2), (1, 2)] and torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(3, 8, 8), r"images \[3, 8, 8\]: give \[N,3,H,W\]; one image \[3,H,W\] is image\[None\]"),
        (torch.rand(2, 1, 8, 8), r"images \[2, 1, 8, 8\]: give"),
        (torch.rand(2, 3, 8, 8) * 9, "not normalised"),
        (torch.full((2, 3, 8, 8), torch.nan), "pixels from nan to nan"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), r"torch\.uint8"),
    ],
)
def test_images_that_are_none(images: Tensor, message: str) -> None:
    """Said before the network sees them."""
    with pytest.raises(ValueError, match=message):
        assay.fit("msp", TOY).score(images)


def test_what_cannot_be_fitted() -> None:
    """Without training data, on a network without what the detector reads, and when the fit raises."""
    with pytest.raises(ConfigError, match=r"method knn is fitted .* from Python train=NAME or train=\(images, classes"):
        assay.fit("knn", "scenes_vgg")
    pool = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ConfigError, match=r"knn.* reads penultimate features, and Sequential does not end in a linear"):
        assay.fit("knn", (pool, [0.5] * 3, [0.5] * 3), (random_images(4, 8), [0, 1, 0, 1]))
    with pytest.raises(RuntimeError, match="Failing could not be fitted: ArithmeticError: no"):
        assay.fit(Failing(), TOY, (random_images(3, 2)[:, :, :1], [0, 1, 1]))


class Failing(KNN):
    """Cannot be fitted."""

    def fit(self, training: object) -> Any:
        raise ArithmeticError("no")


# Files


@pytest.mark.parametrize("name", DETECTORS)
def test_a_file_gives_the_detector_back(name: str, images: Tensor, fitted: Fit, tmp_path: Path) -> None:
    """By the model's name and by its network; settings, state and scores to the bit."""
    scorer, path = fitted(name), tmp_path / "new" / "detector.safetensors"
    scorer.save(path)
    for again in (assay.load(path, "scenes_resnet"), Scorer.load(str(path), scorer.network)):
        assert again.chosen == scorer.chosen and again.detector == scorer.detector
        assert again.state.keys() == scorer.state.keys()
        assert all(torch.equal(again.state[key], value) for key, value in scorer.state.items())
        assert torch.equal(again.score(images), scorer.score(images))


def test_an_ensemble_comes_back(tmp_path: Path) -> None:
    """A detector whose loader is no method: it reads the members' weights where it did."""
    member = tmp_path / "member.safetensors"
    save_file(other_weights().state_dict(), member)
    images = random_images(4, 2)[:, :, :1]
    scorer = assay.fit("ensemble", TOY, overrides=[f"method.ensemble.weights=[{member}]"])
    scorer.save(tmp_path / "ensemble.safetensors")
    assert torch.equal(assay.load(tmp_path / "ensemble.safetensors", TOY).score(images), scorer.score(images))


def test_a_cascade_cannot_be_kept(tmp_path: Path) -> None:
    """Its second network is one that no file may load: refused before there is a file that nothing reads."""
    words = ["model@method.cascade.larger=scenes_vgg"]
    scorer = assay.fit("cascade", "scenes_resnet", overrides=words)
    with pytest.raises(ConfigError, match=r"method cascade cannot be saved: it names .*scenes_network, .*fit it anew"):
        scorer.save(tmp_path / "cascade.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_every_detector_may_be_named() -> None:
    """All that our methods' configs consist of, and no more, passes for a file."""
    targets = {
        each for file in (CONF / "method").glob("*.yaml") for each in re.findall(r"assay\.[\w.]+", file.read_text())
    }
    strangers = {each for each in targets if not each.startswith(scorer.METHODS)}
    assert strangers == scorer.PARTS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of a detector of the toy."""
    scorer = assay.fit("knn", TOY, (random_images(3, 2)[:, :, :1], [0, 1, 1]), overrides=["method.knn.k=1"])
    scorer.save(tmp_path / "knn.safetensors")
    return tmp_path / "knn.safetensors"


def other_weights() -> nn.Module:
    """The toy with one weight changed."""
    module = ToyModule()
    module.fc.weight.data[0, 0] += 1
    return module


@pytest.mark.parametrize(
    ("model", "trait"),
    [
        ((other_weights(), *TOY[1:]), "weights [0-9a-f]{64} in the file, [0-9a-f]{64} here"),
        ((TOY[0], (0.5, 0.5, 0.4), TOY[2]), r"mean \[0.5, 0.5, 0.5\] in the file, \[0.5, 0.5, 0.4\] here"),
        ((*TOY[:2], (0.25,) * 3), "std"),
        (Network(*TOY, activation="sigmoid"), r"outputs \[None, 'softmax'\] in the file, \[None, 'sigmoid'\] here"),
        (Network(*TOY, groups=[[0], [1]]), r"groups None in the file, \[\[0\], \[1\]\] here"),
        ((ToyModule().double(), *TOY[1:]), "weights"),
    ],
)
def test_another_network_is_refused(model: Any, trait: str, path: Path) -> None:
    """Other weights, normalisation, outputs or precision: each is named. The same, given anew, is accepted."""
    with pytest.raises(ConfigError, match=f"knn was fitted on another network: {trait}"):
        assay.load(path, model)
    assert assay.load(path, (ToyModule(), *TOY[1:])).score(random_images(1, 2)[:, :, :1]).shape == (1,)
    assert Scorer.load(path, Network(*TOY)).network.fingerprint == ""  # one that nobody has given a fingerprint


def test_precision_is_part_of_the_network(path: Path) -> None:
    """The same weights, computed with in float64."""
    with pytest.raises(ConfigError, match=r"precision torch.float32 in the file, torch.float64 here"):
        assay.load(path, TOY, overrides=["precision=float64"])


def test_another_version_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the fit left may mean something else."""
    monkeypatch.setattr(KNN, "VERSION", 99)
    with pytest.raises(ConfigError, match="knn was fitted by other code: version 1 in the file, 99 here; fit it anew"):
        assay.load(path, TOY)


def test_another_version_of_a_part_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a detector consists of is part of what it is; a file of before, which does not say, is of the first."""
    changed = {"versions": {"scores.a": 2}}
    monkeypatch.setattr(scorer, "nested_versions", lambda _: changed)
    with pytest.raises(ConfigError, match=r"versions of its parts \{\} in the file, \{'scores.a': 2\} here"):
        assay.load(path, TOY)
    assay.fit("msp", TOY).save(path)
    assert assay.load(path, TOY).chosen.name == "msp"


class Bomb:
    """Unpickling it makes a file."""

    def __reduce__(self) -> Any:
        return (open, ("exploded", "w"))


def test_a_pickle_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither Python's nor torch's; no code of it runs."""
    monkeypatch.chdir(tmp_path)
    Path("one").write_bytes(pickle.dumps(Bomb()))
    torch.save({"a": Bomb()}, "two")
    Path("three").write_bytes(b"")
    for name in ("one", "two", "three"):
        with pytest.raises(ConfigError, match=f"{name} is no safetensors file"):
            assay.load(name, TOY)
    with pytest.raises(ConfigError, match=r"no file four: write one with detector.save\(path\)"):
        assay.load("four", TOY)
    assert not Path("exploded").exists()


def test_other_tensors_are_no_detector(tmp_path: Path) -> None:
    """Weights of a network, with or without metadata of their own."""
    for metadata in (None, {"format": "pt"}):
        save_file(ToyModule().state_dict(), tmp_path / "weights.safetensors", metadata)
        with pytest.raises(ConfigError, match=r"weights.safetensors holds no detector of Assay"):
            assay.load(tmp_path / "weights.safetensors", TOY)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("os.system", "_target_ 'os.system' is outside"),
        ("shutil.rmtree", "is outside"),
        ("assay.harness.networks.loading.torchvision_network", "which is no method: nothing of it was built"),
        ("assay.datasets.folder.ImageFolder", "which is no method"),
    ],
)
def test_a_file_names_no_code(target: str, message: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the top or nested; neither others' code nor ours that loads networks or data."""
    monkeypatch.delenv("ASSAY_ALLOW_TARGET", raising=False)
    with safe_open(path, "pt") as file:
        about, state = json.loads(file.metadata()[KIND]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    for settings in ({"_target_": target, "command": "x"}, {**about["settings"], "k": {"_target_": target}}):
        save_file(state, path, {KIND: json.dumps({**about, "settings": settings})})
        with pytest.raises(ConfigError, match=message):
            assay.load(path, TOY)


def test_an_object_cannot_be_kept(tmp_path: Path) -> None:
    """Its settings are no config's: what its fit left can be kept by its owner."""
    scorer = assay.fit(KNN(k=1, share=1.0), TOY, (random_images(3, 2)[:, :, :1], [0, 1, 1]))
    assert scorer.state
    with pytest.raises(ConfigError, match="method KNN: only detectors chosen by a config's name can be saved"):
        scorer.save(tmp_path / "knn.safetensors")
    assert list(tmp_path.iterdir()) == []
