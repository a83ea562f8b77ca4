"""What holds for every detector of features: parts, batches, order, settings, and which way scores point."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from assay.harness.build import build
from assay.harness.detection import Features
from assay.methods.ood.ash import ASH, SCALE
from assay.methods.ood.dice import DICE, DICEReAct
from assay.methods.ood.fdbd import FDBD
from assay.methods.ood.gradnorm import GradNorm
from assay.methods.ood.klm import KLMatching
from assay.methods.ood.knn import KNN
from assay.methods.ood.line import LINe
from assay.methods.ood.logits import GEN, MSP, Energy, Entropy, Margin, MaxLogit
from assay.methods.ood.mahalanobis import Mahalanobis
from assay.methods.ood.nci import NCI
from assay.methods.ood.nnguide import NNGuide
from assay.methods.ood.odin import ODIN
from assay.methods.ood.react import ReAct
from assay.methods.ood.rmd import RMD
from assay.methods.ood.she import SHE
from assay.methods.ood.vim import Residual, ViM
from conftest import alone
from detection_toys import features_of, nearest_mean, random_features, training_of
from torch import Tensor

DETECTORS: dict[str, Any] = {
    "msp": MSP(),
    "max_logit": MaxLogit(),
    "entropy": Entropy(),
    "margin": Margin(),
    "energy": Energy(),
    "gen": GEN(top=3),
    "odin": ODIN(eps=0),
    "mahalanobis": Mahalanobis(),
    "react": ReAct(),
    "dice": DICE(50),
    "dice_react": DICEReAct(50, 0.8),
    "line": LINe(50, 50, 0.8),
    "ash": ASH(50),
    "scale": SCALE(50),
    "vim": ViM(5),
    "residual": Residual(5),
    "knn": KNN(5),
    "nnguide": NNGuide(5),
    "fdbd": FDBD(),
    "she": SHE(),
    "gradnorm": GradNorm(),
    "rmd": RMD(),
    "klm": KLMatching(),
    "nci": NCI(),
}
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("msp", {"form": "probability"}),
    ("gen", {"gamma": 0.2}),
    ("gen", {"top": 2}),
    ("odin", {"temperature": 10}),
    ("mahalanobis", {"layers": ["first"]}),
    ("react", {"clip": 0.5}),
    ("react", {"percentile": 60}),
    ("dice", {"percentile": 60}),
    ("dice_react", {"percentile": 60}),
    ("dice_react", {"clip": 0.5}),
    ("dice_react", {"clip": None}),
    ("line", {"p_activation": 60}),
    ("line", {"p_weight": 60}),
    ("line", {"delta": 0.5}),
    ("line", {"clip_activations": False}),
    ("line", {"prune_activations": False}),
    ("line", {"prune_weights": False}),
    ("ash", {"percentile": 60}),
    ("ash", {"variant": "p"}),
    ("ash", {"variant": "b"}),
    ("scale", {"percentile": 60}),
    ("vim", {"dimension": 6}),
    ("residual", {"dimension": 6}),
    ("knn", {"k": 6}),
    ("knn", {"share": 0.5}),
    ("nnguide", {"k": 6}),
    ("nnguide", {"share": 0.5}),
    ("fdbd", {"origin": "zero"}),
    ("she", {"likeness": "euclidean"}),
    ("she", {"likeness": "cosine"}),
    ("gradnorm", {"temperature": 2}),
    ("nci", {"alpha": 0.1}),
]


@pytest.fixture(params=DETECTORS)
def detector(request: pytest.FixtureRequest) -> Any:
    return DETECTORS[request.param]


@pytest.fixture(scope="module")
def train() -> Features:
    features = random_features(200)
    return features_of(features.tap(), nearest_mean(features), features.labels, features.layers)


@pytest.fixture(scope="module")
def test(train: Features) -> Features:
    features = random_features(seed=1)
    return features_of(features.tap(), train.linear_head(), features.labels, features.layers)


def state_of(detector: Any, train: Features, size: int | None = None) -> dict[str, Tensor]:
    return detector.fit(training_of(train, size)) if detector.needs().training else {}


@pytest.mark.parametrize("name", DETECTORS)
def test_the_config_builds_the_class(name: str) -> None:
    """conf/method/<name>.yaml holds exactly the class' settings with its defaults; lists for sequences."""
    built = build(alone("method", name).method[name])
    plain = type(built)()
    for field in plain.__dataclass_fields__.keys() - {"VERSION"}:
        ours, theirs = (getattr(each, field) for each in (plain, built))
        assert theirs == (list(ours) if isinstance(ours, tuple) else ours), field


def test_batches_do_not_matter(detector: Any, train: Features, test: Features) -> None:
    """60 images together, in parts of 7, and one by one; float64, 1e-10."""
    state = state_of(detector, train)
    together = detector.score(test, state)
    assert together.shape == (60,)
    for size in (7, 1):
        parts = [detector.score(test.rows(slice(i, i + size)), state) for i in range(0, 60, size)]
        assert torch.allclose(torch.cat(parts), together, atol=1e-10, rtol=1e-10)


def test_single_precision(detector: Any, train: Features, test: Features) -> None:
    """float32 features, as networks give them, score within 1e-4 of float64 ones, at the mean of their spread."""
    single = [
        Features(each.logits.float(), each.labels, each.tap().float(), {}, type(head)(*(v.float() for v in head)))
        for each in (train, test)
        for head in [each.linear_head()]
    ]
    expected = detector.score(test, state_of(detector, train))
    found = detector.score(single[1], state_of(detector, single[0]))
    assert (found - expected).abs().mean() < 1e-4 * expected.std()


def test_parts_of_the_training_set_do_not_matter(detector: Any, train: Features, test: Features) -> None:
    """Fitted in one part, and in parts of 7 rows, of which the last is smaller; 1e-9."""
    whole, parted = (detector.score(test, state_of(detector, train, size)) for size in (None, 7))
    assert torch.allclose(whole, parted, atol=1e-9, rtol=1e-9)


def test_fits_and_scores_are_repeatable(detector: Any, train: Features, test: Features) -> None:
    """Equal to the bit; a fit leaves plain tensors without a graph, and the global random state alone."""
    before = torch.random.get_rng_state()
    states = [state_of(detector, train, 7) for _ in range(2)]
    assert torch.equal(*(detector.score(test, state) for state in states))
    assert torch.equal(before, torch.random.get_rng_state())
    for name, value in states[0].items():
        assert isinstance(value, Tensor)
        assert not value.requires_grad
        assert torch.equal(value, states[1][name])


@pytest.mark.parametrize(("name", "change"), SETTINGS, ids=lambda value: str(value))
def test_each_setting_matters(name: str, change: dict[str, Any], train: Features, test: Features) -> None:
    """A changed setting changes the scores, after a new fit."""
    scores = [
        detector.score(test, state_of(detector, train))
        for detector in (DETECTORS[name], replace(DETECTORS[name], **change))
    ]
    assert (scores[0] - scores[1]).abs().max() > 1e-6


def test_every_setting_is_tried() -> None:
    """The list above leaves out none but those with tests of their own."""
    elsewhere = {
        *(("mahalanobis", name) for name in ("noise", "calibration", "fgsm_eps", "images")),
        *(("odin", name) for name in ("eps", "eps_space")),
        *(("line", name) for name in ("predict_from", "contributions", "steps")),
        ("dice_react", "clip_percentile"),
        *((name, "negative") for name in ("ash", "scale")),
    }
    tried = {(name, field) for name, change in SETTINGS for field in change} | elsewhere
    fields = {(name, field) for name, each in DETECTORS.items() for field in each.__dataclass_fields__}
    assert tried == {pair for pair in fields if pair[1] != "VERSION"}


def test_higher_is_more_likely_ood(detector: Any, train: Features) -> None:
    """Images between all classes score higher than training images, on average."""
    generator = torch.Generator().manual_seed(3)
    noise = 0.4 * torch.randn(200, 12, generator=generator, dtype=torch.float64).relu()
    if isinstance(detector, (Mahalanobis, ViM, Residual, RMD)):
        noise = noise + 4  # these measure how far, the others how sure
    state = state_of(detector, train)
    outside = features_of(noise, train.linear_head())
    if isinstance(detector, ViM):
        outside = replace(outside, logits=train.logits)
    assert detector.score(outside, state).mean() > detector.score(train, state).mean()
