"""Difficult flags, by hand."""

import torch
from assay.datasets.annotations import difficult_flags, union_area


def test_union_counts_overlap_once() -> None:
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [2.0, 2.0, 6.0, 6.0]])
    assert union_area(boxes, (8, 8)) == 16 + 16 - 4


def test_union_stops_at_the_border() -> None:
    assert union_area(torch.tensor([[6.0, 6.0, 12.0, 12.0]]), (8, 8)) == 4


def test_small_class_with_company_is_difficult() -> None:
    boxes = {3: torch.tensor([[0.0, 0.0, 3.0, 5.0]]), 7: torch.tensor([[4.0, 0.0, 8.0, 8.0]])}
    assert difficult_flags(boxes, (8, 8)) == {3: True, 7: False}  # 15 and 32 of 64 px


def test_a_quarter_is_not_small() -> None:
    boxes = {0: torch.tensor([[0.0, 0.0, 4.0, 4.0]]), 1: torch.tensor([[0.0, 0.0, 1.0, 1.0]])}
    assert difficult_flags(boxes, (8, 8)) == {0: False, 1: True}


def test_boxes_of_a_class_add_up() -> None:
    halves = torch.tensor([[0.0, 0.0, 2.0, 4.0], [2.0, 0.0, 4.0, 4.0]])
    assert not difficult_flags({0: halves, 1: halves[:1]}, (8, 8))[0]


def test_alone_is_never_difficult() -> None:
    assert difficult_flags({3: torch.tensor([[0.0, 0.0, 1.0, 1.0]])}, (8, 8)) == {3: False}
