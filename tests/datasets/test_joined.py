"""Joined data sets: by hand."""

import pytest
from assay.datasets.joined import Joined
from assay.datasets.scenes import Scenes


def test_samples_follow_one_another() -> None:
    """Three test and two val scenes: the fourth is the first of val; the ends are exclusive."""
    test, val = Scenes("test", 3), Scenes("val", 2)
    joined = Joined({"a": test, "b": val}, "both")
    assert [joined[i].id for i in range(len(joined))] == [d[i].id for d in (test, val) for i in range(len(d))]
    with pytest.raises(IndexError, match="index 5 of 5"):
        joined[5]


def test_the_fingerprint_covers_every_part_and_their_order() -> None:
    """Another part or another order is another data set."""
    test, val = Scenes("test", 3), Scenes("val", 2)
    lists = ([test, val], [val, test], [test], [test, Scenes("val", 3)])
    joined = [Joined({str(i): part for i, part in enumerate(parts)}, "x") for parts in lists]
    assert len({each.fingerprint() for each in joined}) == len(lists)


def test_unequal_classes_are_refused() -> None:
    """A label must mean one thing."""
    other = Scenes("val", 2)
    other.classes = ("a", "b")
    with pytest.raises(ValueError, match="different classes"):
        Joined({"a": Scenes("test", 3), "b": other}, "x")
    with pytest.raises(ValueError, match="at least one"):
        Joined({}, "x")
