"""Samples of own code and own files: what is none is refused, naming data set, sample, value and mend."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from assay.harness.config import ConfigError
from assay.harness.engine.samples import Checked, check_sample
from assay.harness.network import Network
from assay.harness.types import Sample
from torch import Tensor, nn

import assay

IMAGE = torch.rand(3, 8, 12, generator=torch.Generator().manual_seed(0))
FRAME = (40, 60)
GOOD = Sample(
    "a.png",
    IMAGE,
    (0, 2),
    FRAME,
    {0: torch.tensor([[1.0, 2, 30, 40]]), 2: torch.tensor([[-0.5, 0, 60.9, 40]])},  # tools round
    mask={0: torch.ones(FRAME, dtype=torch.bool)},
    ignore=torch.zeros(FRAME, dtype=torch.bool),
)
CLASSES = ("owl", "fox", "bear")


def boxed(*edges: float) -> dict[str, Any]:
    return {"boxes": {0: torch.tensor([list(edges)]).float()}}


def one(value: float) -> Tensor:
    image = IMAGE.clone()
    image[1, 2, 3] = value
    return image


def test_what_is_right_passes() -> None:
    """Also a resize's rounding, a constant image, no box, one mask for all, and an image without a class."""
    for good in (
        GOOD,
        replace(GOOD, image=one(1 + 1e-6)),
        replace(GOOD, image=IMAGE.double()),
        replace(GOOD, image=torch.zeros(3, 8, 8)),
        replace(GOOD, boxes={0: torch.zeros(0, 4)}),
        replace(GOOD, mask=torch.zeros(FRAME, dtype=torch.bool), ignore=None),
        replace(GOOD, targets=(), boxes={}, mask=None),
        replace(GOOD, boxes={0: torch.tensor([[0, 0, 0.8, 0.6]])}),  # what a crop left of a box
    ):
        check_sample(good, "own", CLASSES)
    check_sample(replace(GOOD, targets=(7,)), "own", ())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"image": IMAGE * 255}, r"pixels from .* to 25.*: give RGB in \[0,1\] \(image / 255\), not normalised"),
        ({"image": (IMAGE * 255).byte()}, r"pixels are torch.uint8: .*\(image / 255\)"),
        ({"image": IMAGE - 0.5}, r"pixels from -0.\d+ to .*: give RGB in \[0,1\], not normalised"),
        ({"image": one(torch.nan)}, "pixels from nan to nan: give finite numbers"),
        ({"image": one(torch.inf)}, "pixels from 0.* to inf: give finite numbers"),
        ({"image": one(-torch.inf)}, "pixels from -inf to .*: give finite numbers"),
        ({"image": IMAGE.permute(1, 2, 0)}, r"image is \[8, 12, 3\]: give \[3,H,W\], image\.permute\(2, 0, 1\)"),
        ({"image": IMAGE[0]}, r"image is \[8, 12\]: .*image\.expand"),
        ({"image": IMAGE[:1]}, r"image is \[1, 8, 12\]: .*image\.expand"),
        ({"image": torch.rand(4, 8, 8)}, r"image is \[4, 8, 8\]: .*image\[:3\]"),
        ({"image": IMAGE[None]}, r"image is \[1, 3, 8, 12\]: .*one image"),
        ({"image": IMAGE[:, :0]}, r"image is \[3, 0, 12\]: give \[3,H,W\]"),
        ({"image": IMAGE.numpy()}, "images are a ndarray: give a torch tensor"),
        (boxed(1, 2, torch.inf, 9), r"boxes of class 0: \[1.0, 2.0, inf, 9.0\] is no box: give pixel edges"),
        (boxed(-torch.inf, 2, 3, 9), r"\[-inf, .*is no box"),
        (boxed(1, torch.nan, 3, 9), r"nan.*is no box"),
        (boxed(9, 2, 3, 9), r"\[9.0, 2.0, 3.0, 9.0\] is no box: .*x0 < x1"),
        (boxed(3, 2, 3, 9), "is no box"),
        (boxed(1, 2, 3, 42), r"\[1.0, 2.0, 3.0, 42.0\] lies outside of the frame, 60x40 pixels"),
        (boxed(-2, 2, 3, 4), "lies outside of the frame"),
        (boxed(0.1, 0.2, 0.7, 0.9), r"boxes \[\[0.1.*\]\] are shares of the image: multiply x by its width"),
        ({"boxes": {0: torch.tensor([1.0, 2, 3, 4])}}, r"boxes of class 0: \[4\]: give \[N,4\]"),
        ({"boxes": {3: torch.zeros(0, 4)}}, "boxes: class 3 is none of the data set's, 0 to 2: mend its labels"),
        ({"targets": (999,)}, "targets: class 999 is none of the data set's, 0 to 2"),
        ({"targets": (-1,)}, "targets: class -1 is none"),
        ({"targets": (1.5,)}, "targets: class 1.5 is a float"),
        ({"targets": (1, 1)}, r"targets=\(1, 1\) has a class twice"),
        ({"size0": (0, 4)}, r"size0=\(0, 4\): give \(height, width\)"),
        ({"mask": torch.ones(60, 40, dtype=torch.bool)}, r"mask: \[60, 40\]: give one of the frame's size, \[40, 60\]"),
        ({"mask": {0: torch.ones(FRAME)}}, r"mask: torch.float32: give a bool tensor \[H,W\] \(mask > 0\)"),
        ({"ignore": torch.ones(2, 2, dtype=torch.bool)}, r"ignore: \[2, 2\]: give one of the frame's size"),
        ({"size0": None}, r"has no len\(\): see docs/how-to/own-dataset\.md"),
        ({"boxes": None}, r"no attribute 'items': see docs/how-to/own-dataset\.md"),
        ({"targets": 3}, r"not iterable: see docs/how-to/own-dataset\.md"),
        ({"id": 7}, r"its id is a int: give a text"),
        ({"id": ""}, "its id is a str"),
        ({"id": "caf\udce9.png"}, "bytes that are no UTF-8: rename the file"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=f"^own: sample .*{why}"):
        check_sample(replace(GOOD, **change), "own", CLASSES)


class Own:
    """Two images; the second is `second`."""

    classes, split = CLASSES, "test"

    def __init__(self, second: Any) -> None:
        self.second = second

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        return self.second if index else GOOD

    def fingerprint(self) -> str:
        return "own"


def small() -> nn.Sequential:
    """A network of images of any size, three classes."""
    body = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(*body, nn.Linear(4, 3))


MODEL = (small(), [0.5] * 3, [0.25] * 3)


@pytest.mark.parametrize("methods", ["gradient", "msp"])
def test_in_a_run(methods: str) -> None:
    """Before anything is computed where it is among the first images, whichever the wing; nothing has a value."""
    metric = "positive_ratio" if methods == "gradient" else "error_detection"
    with pytest.raises(ConfigError, match=r"Own: sample 'b': pixels from .*image / 255"):
        assay.evaluate(MODEL, Own(replace(GOOD, id="b", image=IMAGE * 255)), methods, metric)
    with pytest.raises(ConfigError, match=r"Own: a tuple is no Sample: wrap it as docs/how-to/own-dataset\.md shows"):
        assay.evaluate(MODEL, Own((IMAGE, 1)), methods, metric)


def test_training_sets_too() -> None:
    bad = Own(replace(GOOD, id="b", image=one(torch.nan)))
    with pytest.raises(ConfigError, match="Own: sample 'b': pixels from nan to nan"):
        assay.fit("knn", MODEL, bad)


def test_a_data_sets_own_error_is_a_wrong_request() -> None:
    """Not a traceback: the data set is named, and what it said."""

    class Broken(Own):
        def __getitem__(self, index: int) -> Any:
            raise ValueError("a.png cannot be read")

    with pytest.raises(ConfigError, match=r"^own: a\.png cannot be read"):
        Checked("own", Broken(None))[0]


class Late(Own):
    """The ninth of twelve cannot be read; two in a shard."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Any:
        if index == 8:
            raise ValueError("the ninth is broken")
        return replace(GOOD, id=str(index))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_loader_is_the_data_sets(workers: int) -> None:
    """In its own words, whoever reads it; and no number of a part of the images."""
    overrides = [f"compute.workers={workers}", "compute.shard_size=2"]
    with pytest.warns(RuntimeWarning, match="edges failed: ConfigError: Late: the ninth is broken$"):
        table = assay.evaluate(MODEL, Late(None), "edges", "positive_ratio", overrides=overrides)
    assert table["status"].tolist() == ["failed:ConfigError: Late: the ninth is broken"]


def test_groups_of_outputs_that_are_not_there() -> None:
    """Not an index error, and -1 is not the last output."""
    for member in (3, -1):
        network = Network(small(), [0.5] * 3, [0.25] * 3, groups=[[0], [member], [1, 2]])
        with pytest.raises(
            ConfigError, match=f"has 3 outputs, and its class groups name {member}: give members 0 to 2"
        ):
            assay.evaluate(network, Own(replace(GOOD, id="b")), "edges", "positive_ratio")
