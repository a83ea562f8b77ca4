"""pytorch-ood's detectors through the adapter: every class is tried, each is its own, and no pass is made."""

from importlib import metadata
from typing import Any

import pytest
import torch
from assay.harness.build import build
from assay.harness.detection import Features, LinearHead
from assay.harness.detectors.features import head_of
from assay.harness.forward import ForwardPass
from assay.harness.store.identity import nested_versions
from assay.methods.attribution.adapters import parameters
from assay.methods.ood import pytorch_ood_adapter
from assay.methods.ood.ash import ASH, SCALE
from assay.methods.ood.dice import DICE
from assay.methods.ood.fdbd import FDBD
from assay.methods.ood.klm import KLMatching
from assay.methods.ood.knn import KNN
from assay.methods.ood.logits import GEN, MSP, Energy, Entropy, MaxLogit
from assay.methods.ood.nci import NCI
from assay.methods.ood.nnguide import NNGuide
from assay.methods.ood.pytorch_ood_adapter import KINDS, REFUSED, PytorchOOD, supported
from assay.methods.ood.react import ReAct
from assay.methods.ood.she import SHE
from assay.methods.ood.vim import ViM
from conftest import alone, known, random_images
from detection_toys import features_of, nearest_mean, random_features, scores_of, training_of
from sklearn.metrics import roc_auc_score
from torch import Tensor

library = pytest.importorskip("pytorch_ood.detector")

OPTIONS: dict[str, dict[str, Any]] = {"DICE": {"p": 0.5}, "ViM": {"d": 5}, "KNN": {"k": 5}}
# Every one that works, as docs/methods/ood_today.md lists them, with a setting that changes its scores.
WORKING: dict[str, dict[str, Any]] = {
    "ASH": {"percentile": 0.3},
    "DICE": {"p": 0.2},
    "EnergyBased": {"t": 3.0},
    "Entropy": {},
    "GEN": {"gamma": 0.5},
    "GMM": {"reg": 1.0},
    "KLMatching": {},
    "KNN": {"k": 9},
    "LTS": {"p": 0.5},
    "Mahalanobis": {},
    "MaxLogit": {},
    "MaxSoftmax": {"t": 3.0},
    "NCI": {"alpha": 0.1},
    "NNGuide": {"k": 3},
    "PNML": {"eps": 0.1},
    "RMD": {},
    "ReAct": {"percentile": 0.5},
    "SCALE": {"percentile": 0.3},
    "SHE": {},
    "TemperatureScaling": {},
    "VRA": {"upper_percentile": 0.6},
    "ViM": {"d": 3},
    "fDBD": {},
}
OURS: dict[str, Any] = {
    "ASH": ASH(65),
    "DICE": DICE(50),
    "EnergyBased": Energy(),
    "Entropy": Entropy(),
    "KLMatching": KLMatching(),
    "KNN": KNN(5),
    "MaxLogit": MaxLogit(),
    "MaxSoftmax": MSP("probability"),
    "NCI": NCI(0),
    "NNGuide": NNGuide(10),
    "ReAct": ReAct(),
    "SCALE": SCALE(65),
    "SHE": SHE(),
    "ViM": ViM(5),
    "fDBD": FDBD(),
}


def method_of(name: str, **changes: Any) -> PytorchOOD:
    return PytorchOOD(name, OPTIONS.get(name, {}) | changes)


@pytest.fixture(scope="module")
def train() -> Features:
    features = random_features(200, dtype=torch.float32)
    return features_of(features.tap(), nearest_mean(features), features.labels)


@pytest.fixture(scope="module")
def test(train: Features) -> Features:
    return features_of(random_features(seed=1, dtype=torch.float32).tap(), train.linear_head())


def test_every_class_works_or_is_refused_by_name() -> None:
    """All that pytorch_ood.detector exports: at least 19 work; the others say why, and there is nothing between."""
    classes = {name for name in library.__all__ if isinstance(getattr(library, name), type)}
    assert set(supported()) == WORKING.keys()
    assert classes == WORKING.keys() | REFUSED.keys()
    assert len(WORKING) >= 19
    for name, why in REFUSED.items():
        with pytest.raises(ValueError, match=f"pytorch-ood's {name} cannot be used: {why}"):
            PytorchOOD(name)


@pytest.mark.parametrize("name", WORKING)
def test_it_is_the_class_itself(name: str, train: Features, test: Features) -> None:
    """The scores that the class gives when it is called by hand with the same values; equal to the bit, in parts of 7
    rows within 1e-5, and not those of another setting."""
    layer = torch.nn.Linear(12, 5)
    layer.weight.data, layer.bias.data = test.linear_head()
    word = next(KINDS[base.__name__].word for base in getattr(library, name).__mro__ if base.__name__ in KINDS)
    flat = torch.nn.Sequential(torch.nn.Flatten(), layer) if word == "feature_maps" else layer
    parts = {"model": None, "encoder": None, "backbone": None, "head": flat, "w": layer.weight, "b": layer.bias}
    taken = parameters(getattr(library, name))
    theirs = getattr(library, name)(**{k: v for k, v in parts.items() if k in taken}, **OPTIONS.get(name, {}))

    def values(features: Features) -> Tensor:
        if word == "logits":
            return features.logits
        return features.tap() if word == "features" else features.tap()[:, :, None, None]

    if theirs.requires_fit:
        getattr(theirs, f"fit_{word}")(values(train), train.labels)
    expected = getattr(theirs, f"predict_{word}")(values(test)).detach()
    method = method_of(name)
    state = method.fit(training_of(train, 7)) if method.needs().training else {}
    assert torch.equal(method.score(test, state), expected)
    parted = torch.cat([method.score(test.rows(slice(i, i + 7)), state) for i in range(0, 60, 7)])
    assert torch.allclose(parted, expected, rtol=1e-5, atol=1e-5)
    if WORKING[name]:
        assert not torch.allclose(scores_of(method_of(name, **WORKING[name]), test, training_of(train)), expected)


@pytest.mark.parametrize("name", WORKING)
def test_higher_is_ood(name: str) -> None:
    """Known data: a class is eight units that are active together, as its weights want them; of unknown images three
    units of any class are. The area under the ROC curve is above .9 for every class."""
    draw = torch.Generator().manual_seed(0)
    own = torch.eye(5).repeat_interleave(8, 1)  # [5,40]
    head = LinearHead(own - 0.1, torch.zeros(5))

    def some(active: Tensor, labels: Tensor | None = None) -> Features:
        return features_of((active + 0.1 * torch.randn(len(active), 40, generator=draw)).abs(), head, labels)

    labels = torch.arange(300) % 5
    unknown = torch.stack([torch.randperm(40, generator=draw) < 3 for _ in range(100)]).float()
    training, inside, outside = training_of(some(own[labels], labels)), some(own[labels[:100]]), some(0.8 * unknown)
    method = method_of(name)
    state = method.fit(training) if method.needs().training else {}
    scores = torch.cat([method.score(each, state) for each in (inside, outside)])
    assert roc_auc_score(torch.arange(200) // 100, scores) > 0.9


@pytest.mark.parametrize("name", OURS)
def test_ours_is_theirs(name: str, train: Features, test: Features) -> None:
    """Both native and adapted: relative to the largest 2e-5 (theirs is float32; it clips probabilities at 1e-7)."""
    ours, theirs = (scores_of(each, test, training_of(train)).double() for each in (OURS[name], method_of(name)))
    assert (ours - theirs).abs().max() < 2e-5 * ours.abs().max()


def test_gen_is_a_mean(train: Features, test: Features) -> None:
    """GEN's sum over the classes is theirs times their number, to 1e-5."""
    theirs = scores_of(method_of("GEN"), test)
    assert torch.allclose(5 * theirs.double(), scores_of(GEN(), test), rtol=1e-4)


def test_no_pass_is_made() -> None:
    """Features of a real pass, then every class fitted and scored: the network's counter stands still."""
    network = known("tiny_resnet").network
    forward = ForwardPass(network, random_images(40, 16), penultimate=True)
    head = head_of(forward)
    features = Features(forward.logits, torch.arange(40) % 5, forward.penultimate, head=head)
    before = network.passes - type(network.passes)()
    assert before.forward == 40
    for name in WORKING.keys() - {"SHE"}:  # whose classes need an image that is classified right
        assert scores_of(method_of(name), features, training_of(features)).isfinite().all()
    assert network.passes == before


def test_unknown_labels_do_not_count(train: Features, test: Features) -> None:
    """Rows without a label are left out of a fit: Mahalanobis, which refuses them, has the scores of the others."""
    labels = train.labels.clone()
    labels[150:] = -1
    some = Features(train.logits, labels, train.tap(), head=train.head)
    expected = scores_of(method_of("Mahalanobis"), test, training_of(train.rows(slice(0, 150))))
    assert torch.equal(scores_of(method_of("Mahalanobis"), test, training_of(some)), expected)


def test_a_fit_is_made_once_a_state(train: Features, test: Features, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scoring in parts fits no more; another state is fitted anew."""
    fits: list[int] = []
    original = library.GMM.fit_features

    def counted(self: Any, values: Tensor, labels: Tensor) -> Any:
        fits.append(len(values))
        return original(self, values, labels)

    monkeypatch.setattr(library.GMM, "fit_features", counted)
    method = method_of("GMM")
    state = method.fit(training_of(train))
    for start in range(0, 60, 20):
        method.score(test.rows(slice(start, start + 20)), state)
    assert fits == [200]
    method.score(test, dict(state))
    assert fits == [200, 200]


@pytest.mark.parametrize("name", ["ASH", "SCALE", "VRA"])
def test_features_that_are_not_rectified_are_refused(name: str, train: Features, test: Features) -> None:
    """As `ash` refuses them; negative=keep scores them as the class does."""
    signed = features_of(test.tap() - test.tap().mean(), test.linear_head())
    with pytest.raises(ValueError, match=rf"'{name}'.* % of these features are negative .*negative=keep"):
        scores_of(method_of(name), signed, training_of(train))
    assert scores_of(PytorchOOD(name, negative="keep"), signed, training_of(train)).isfinite().all()
    with pytest.raises(ValueError, match="negative='abs': choose one of refuse, keep"):
        PytorchOOD(name, negative="abs")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "bank", "numbers", "rows"),
    [("NNGuide", 200, 2000, 10), ("GMM", 40, 300, 5), ("KNN", 200, 1000, 5), ("EnergyBased", 0, 15, 3)],
    ids=["bank", "classes x features", "bank of KNN", "logits"],
)
def test_rows_at_once_are_bounded(
    name: str, bank: int, numbers: int, rows: int, train: Features, test: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many rows in the bank, 5 classes, 12 features: no call makes more numbers than are allowed."""
    sizes: list[int] = []
    word = next(KINDS[base.__name__].word for base in getattr(library, name).__mro__ if base.__name__ in KINDS)
    original = getattr(getattr(library, name), f"predict_{word}")

    def seen(self: Any, values: Tensor) -> Tensor:
        sizes.append(len(values))
        made: Tensor = original(self, values)
        return made

    monkeypatch.setattr(getattr(library, name), f"predict_{word}", seen)
    monkeypatch.setattr(pytorch_ood_adapter, "NUMBERS", numbers)
    given = test if name != "EnergyBased" else Features(test.logits, test.labels)
    assert len(scores_of(method_of(name), given, training_of(train.rows(slice(0, bank))))) == 60
    assert max(sizes) == rows and sum(sizes) == 60


def test_neighbours_are_searched_on_one_thread(train: Features) -> None:
    """pytorch-ood takes all processors, and so would each process of a run."""
    method = method_of("KNN")
    method.fit(training_of(train))
    assert method._held[0][1].knn.get_params()["n_jobs"] == 1


def test_the_release_is_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another release is another key, in the cell and in the fit's; what is equal but for that is not equal."""
    here = nested_versions(PytorchOOD("KNN"))
    assert here == {"versions": {"release": metadata.version("pytorch-ood")}}
    monkeypatch.setattr(metadata, "version", lambda _: "0.9")
    assert nested_versions(PytorchOOD("KNN")) == {"versions": {"release": "0.9"}}


def test_a_threshold_given_is_not_fitted(train: Features, test: Features) -> None:
    """pytorch-ood's ReAct with threshold 0.5 is ours with clip 0.5, whatever the training images say; 1e-5."""
    scores = scores_of(PytorchOOD("ReAct", {"threshold": 0.5}), test, training_of(train))
    assert torch.allclose(scores, scores_of(ReAct(clip=0.5), test), atol=1e-5)


def test_what_would_not_fit_in_memory_is_refused() -> None:
    """GMM of 1000 classes and 2048 features: 62 GiB, before anything is read of the images."""
    head = LinearHead(torch.zeros(1000, 2048), torch.zeros(1000))
    features = features_of(torch.zeros(3, 2048), head, torch.arange(3))
    with pytest.raises(ValueError, match="pytorch-ood's GMM holds 62 GiB of 1000 classes, 2048 features"):
        method_of("GMM").fit(training_of(features))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("EnergyBase", {}, "'EnergyBase' is no detector of pytorch-ood that can be used. Did you mean 'EnergyBased'"),
        ("odin_preprocessing", {}, "is no detector of pytorch-ood"),
        ("EnergyBased", {"T": 2}, "'T' is no name of EnergyBased's options"),
        ("ASH", {"head": 2}, "'head' is no name of ASH's options"),
        ("DICE", {}, "DICE's options need p"),
    ],
)
def test_bad_settings(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PytorchOOD(name, options)


def test_their_errors_are_told(train: Features) -> None:
    """Fewer images than neighbours; a class that no image has."""
    with pytest.raises(ValueError, match=r"pytorch-ood's KNN does not work .*k=50 exceeds the number of ID samples"):
        PytorchOOD("KNN").fit(training_of(train.rows(slice(0, 20))))
    with pytest.raises(ValueError, match=r"pytorch-ood's Mahalanobis does not work .*AssertionError"):
        some = train.labels != 2
        PytorchOOD("Mahalanobis").fit(training_of(train.rows(some)))


def test_the_config_builds_the_class() -> None:
    """conf/method/pytorch_ood.yaml holds the class' defaults, and needs no training set by itself."""
    built = build(alone("method", "pytorch_ood").method["pytorch_ood"])
    assert built == PytorchOOD()
    assert not built.needs().training
