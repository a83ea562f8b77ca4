"""What a data set says of itself is said of its parts, grids and corrupted versions, too."""

import pytest
from assay.datasets.corrupted import Corrupted
from assay.datasets.grid import Grid
from assay.datasets.part import Part
from assay.datasets.scenes import Scenes
from assay.harness.types import Dataset


class Remarkable(Scenes):
    """Drawn scenes with something to say."""

    skipped, remarks = ("one is broken",), ("few images",)


@pytest.mark.parametrize(
    "made",
    [
        Part(Remarkable("test", size=40)),
        Grid(Remarkable("test", size=40)),
        Corrupted(Remarkable("test", size=4), "blur"),
    ],
    ids=["part", "grid", "corrupted"],
)
def test_a_wrapper_says_what_the_whole_says(made: Dataset) -> None:
    assert getattr(made, "skipped", ()) == ("one is broken",)
    assert getattr(made, "remarks", ()) == ("few images",)
