"""Parts of a sample table: which rows, in which order; exact."""

import pandas as pd
import pytest
from assay.harness import stats
from assay.metrics.subsets import SUBSETS, check_subsets, column_rows, parts

FRAME = pd.DataFrame(
    {
        "image_id": ["a", "a", "b", "c", "d"],
        "label": [7, 2, 7, 2, 10],
        "predicted": [True, False, True, True, False],
        "difficult": [True, True, False, True, False],
        "value": [1.0, 2.0, 4.0, None, 8.0],
    },
    index=[5, 1, 8, 3, 4],
)


def test_named_subsets() -> None:
    """Five pairs, 0 1 3 difficult, 0 2 3 predicted: both 0 and 3. The table's own index does not matter."""
    found = {name: part["label"].tolist() for name, part in parts(FRAME, list(SUBSETS))}
    assert found == {
        "all": [7, 2, 7, 2, 10],
        "difficult": [7, 2, 2],
        "predicted": [7, 7, 2],
        "predicted_difficult": [7, 2],
    }
    assert list(found) == list(SUBSETS)


def test_classes_come_after_in_their_order() -> None:
    """Class 10 after 7 after 2: by number; every pair is in one of them."""
    found = [(name, len(part)) for name, part in parts(FRAME, ["all"], per_class=True)]
    assert found == [("all", 5), ("class=2", 2), ("class=7", 2), ("class=10", 1)]


def test_empty_parts_are_given() -> None:
    """A subset without pairs is an empty part, so that its row can say so; a table without pairs has no classes."""
    part = dict(parts(FRAME.assign(difficult=False), ["difficult"]))["difficult"]
    assert len(part) == 0
    mean, median, undefined = column_rows(part, "value", "v", "difficult", True)
    assert mean.status == median.status == "undefined:no pair in subset difficult has a value"
    assert (undefined.value, undefined.n) == (0, 0)
    assert [name for name, _ in parts(FRAME[:0], ["all", "predicted"], per_class=True)] == ["all", "predicted"]


def test_columns_of_numbers_count_as_flags() -> None:
    """Flags that went through a file as 0 and 1 still choose rows, not columns."""
    frame = FRAME.assign(difficult=FRAME["difficult"].astype(int))
    assert len(dict(parts(frame, ["difficult"]))["difficult"]) == 3


def test_missing_column_is_named() -> None:
    """A metric that does not measure `difficult` cannot have that subset."""
    with pytest.raises(ValueError, match="'difficult'"):
        list(parts(FRAME.drop(columns="difficult"), ["predicted_difficult"]))


@pytest.mark.parametrize("names", [["hard"], [], ["all", "all"]])
def test_names_are_checked(names: list[str]) -> None:
    """Unknown, none, twice: an error that lists the choices."""
    with pytest.raises(ValueError, match="all, difficult, predicted, predicted_difficult"):
        check_subsets(names)


def test_rows_of_a_column() -> None:
    """1, 2, 4, 8 of images a, a, b, d and one nan: mean 15/4 with the bootstrap's interval, median 3, 1 undefined."""
    mean, median, undefined = column_rows(FRAME, "value", "v", "all", False, "ratio")
    expected = stats.cluster_bootstrap([1, 2, 4, 8], ["a", "a", "b", "d"])
    assert (mean.value, mean.ci_low, mean.n, mean.unit) == (3.75, expected.ci_low, 4, "ratio")
    assert (median.value, median.n, median.higher_is_better) == (3, 4, False)
    assert (undefined.stat, undefined.value, undefined.n, undefined.unit) == ("undefined_pairs", 1, 5, "count")
