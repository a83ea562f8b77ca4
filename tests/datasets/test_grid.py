"""Grids: which images come together, where they lie, and what is refused."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from assay.datasets.grid import Grid
from assay.datasets.scenes import Scenes
from assay.harness.types import Sample


class Coloured:
    """Image i is 2x3 pixels of the value i/100 and of class labels[i]; an image of several labels has them all."""

    split = "toy"
    classes: Sequence[str] = ("a", "b", "c", "d", "e")

    def __init__(self, labels: Sequence[int | tuple[int, ...]], wide: int = -1) -> None:
        self.labels, self.wide, self.read = [*labels], wide, list[int]()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        self.read.append(index)
        label = self.labels[index]
        image = torch.full((3, 2, 4 if index == self.wide else 3), index / 100)
        return Sample(f"i{index}", image, label if isinstance(label, tuple) else (label,), (2, 3))

    def fingerprint(self) -> str:
        return f"coloured {self.labels}"


def members(sample: Sample) -> list[int]:
    """Indices of the images in a 2x2 grid of 2x3 pixels, row by row."""
    return [round(100 * float(sample.image[0, y, x])) for y in (0, 2) for x in (0, 3)]


def test_cells_and_boxes() -> None:
    """Four images of four classes, in the order of the permutation: cell k holds image k of it, and its class' box."""
    whole = Coloured([3, 1, 0, 4])
    grid = Grid(whole, size=1, seed=5)[0]
    order = members(grid)
    assert sorted(order) == [0, 1, 2, 3]
    assert grid.image.shape == (3, 4, 6)
    assert grid.size0 == (4, 6)
    assert grid.targets == tuple(whole.labels[index] for index in order)
    boxes = [grid.boxes[label].tolist() for label in grid.targets]
    assert boxes == [[[0, 0, 3, 2]], [[3, 0, 6, 2]], [[0, 2, 3, 4]], [[3, 2, 6, 4]]]
    for cell, (y, x) in enumerate(((0, 0), (0, 3), (2, 0), (2, 3))):
        assert (grid.image[:, y : y + 2, x : x + 3] == order[cell] / 100).all()


def test_classes_differ_and_no_image_is_used_twice() -> None:
    """Ten grids of 120 images of 5 classes: four classes each, 40 images, whatever order they are asked in."""
    labels = [index % 5 for index in range(120)]
    grids = Grid(Coloured(labels), size=10)
    taken = [members(grids[index]) for index in range(10)]
    assert all(len({labels[member] for member in each}) == 4 for each in taken)
    assert len({member for each in taken for member in each}) == 40
    again = Grid(Coloured(labels), size=10)
    assert [members(again[index]) for index in (7, 2)] == [taken[7], taken[2]]


def test_images_of_several_labels_or_of_a_class_that_is_there_are_passed_over() -> None:
    """Of classes 0 0 (1,2) 1 2 () 3, one of each single class, none of the two without one."""
    labels: list[int | tuple[int, ...]] = [0, 0, (1, 2), 1, 2, (), 3]
    for seed in range(5):
        chosen = members(Grid(Coloured(labels), size=1, seed=seed)[0])
        assert not {2, 5} & set(chosen)
        assert sorted(str(labels[index]) for index in chosen) == ["0", "1", "2", "3"]


def test_only_candidates_are_read() -> None:
    """Grid 3 of 10 reads images of its own tenth alone."""
    whole = Coloured([index % 5 for index in range(120)])
    members(Grid(whole, size=10)[3])
    assert len(whole.read) <= 12


def test_one_head_a_cell() -> None:
    """With heads, class c in cell k is k C + c, of as many classes."""
    labels = [3, 1, 0, 4]
    plain, heads = (Grid(Coloured(labels), size=1, heads=each)[0] for each in (False, True))
    assert heads.targets == tuple(5 * cell + label for cell, label in enumerate(plain.targets))
    assert torch.equal(heads.image, plain.image)
    classes = Grid(Coloured(labels), size=1, heads=True).classes
    assert len(classes) == 20
    assert classes[5 * 2 + 3] == "d in cell 2"


def test_the_fingerprint_covers_the_rule() -> None:
    """Another seed, number or labelling is other data; the same is the same."""
    labels = [index % 5 for index in range(120)]
    settings = [{}, {"seed": 1}, {"size": 10}, {"cells": 3}, {"heads": True}, {}]
    whole = Coloured(labels)
    whole.classes = tuple("abcdefghi")
    prints = [Grid(whole, **each).fingerprint() for each in settings]  # type: ignore[arg-type]
    assert len(set(prints)) == 5
    assert prints[0] == prints[-1]
    assert len(Grid(Coloured(labels))) == 120 // 4 // 4


def test_the_embedded_grids_can_all_be_made() -> None:
    """conf/dataset/scenes_grid.yaml: its candidates always have four classes; 30 of its 300 are drawn here."""
    grids = Grid(Scenes("test", 4800, (1, 1)), size=300)
    for index in range(0, 300, 10):
        assert len(set(grids[index].targets)) == 4


def test_fewer_grids_are_a_mend() -> None:
    """Of classes 0 to 3 in eight images two grids may lack one, by seed; the message's number of them does not."""
    few = Coloured([0, 0, 1, 1, 2, 2, 3, 3])
    unlucky = next(seed for seed in range(9) if len({few.labels[i] for i in candidates(few, seed)}) < 4)
    with pytest.raises(ValueError, match=r"make fewer grids \(dataset.size=1\), or try another dataset.seed"):
        Grid(few, size=2, seed=unlucky)[0]
    assert len(members(Grid(few, size=1, seed=unlucky)[0])) == 4


def candidates(whole: Coloured, seed: int) -> list[int]:
    """Of the first of two grids."""
    order = np.random.default_rng(seed).permutation(len(whole))
    return [int(index) for index in order[: len(whole) // 2]]


def test_what_cannot_be_made() -> None:
    """Too few classes, images of unequal size, and settings out of range, by name."""
    with pytest.raises(ValueError, match=r"its 6 candidates have 3 classes.*needs 4: give fewer images.*cells=2, or"):
        Grid(Coloured([0, 0, 1, 1, 2, 2]), size=1)[0]
    with pytest.raises(ValueError, match=r"cells=3: a grid is of 9 classes, the data set has 5"):
        Grid(Coloured([index % 5 for index in range(90)]), cells=3)
    with pytest.raises(ValueError, match="grid 0: images of unequal size"):
        Grid(Coloured([0, 1, 2, 3], wide=2), size=1)[0]
    for settings in ({"cells": 1}, {"size": 2}, {"size": 0}, {"seed": -1}):
        with pytest.raises(ValueError, match="of 4 images, give at least 2 cells a side"):
            Grid(Coloured([0, 1, 2, 3]), **settings)  # type: ignore[arg-type]
    with pytest.raises(IndexError, match="index 1 of 1 grids"):
        Grid(Coloured([0, 1, 2, 3]), size=1)[1]
