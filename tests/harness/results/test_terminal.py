"""Tables in a terminal: nothing is torn or lost at any width, the best is first, floors are marked."""

import sys
from typing import Any

import pandas as pd
import pytest
from assay.harness.results.terminal import blocks, grid, printable, width, wrapped
from assay.harness.results.text import terminal_table

METHODS = ["gradcam", "integrated_gradients", "center"]
HEADS = ["energy_pointing_game box ↑", "pointing_game tol=2px,box difficult ↑", "positive_ratio map>0", "deletion ↓"]
CELLS = {head: [f"0.{row}{column}0 [0.{row}11, 0.{row}22]" for row in range(3)] for column, head in enumerate(HEADS)}

ROW: dict[str, Any] = {
    **{"model": "m", "dataset": "d", "reference": "", "split": "test", "subset": "all", "method": "gradcam"},
    **{"metric": "drop", "variant": "", "stat": "mean", "x": None, "value": 0.5, "n": 4, "higher_is_better": False},
    **{"ci_low": 0.4, "ci_high": 0.6, "status": "ok", "x_label": "", "headline": True},
}


def text_of(*rows: dict[str, Any], floors: tuple[str, ...] = ()) -> str:
    """The terminal's table of rows that differ from a common one."""
    return terminal_table(pd.DataFrame([ROW | row for row in rows]), floors)


def order(text: str, *names: str) -> list[str]:
    """The names in the order in which lines begin with them."""
    first = [line.split()[0] for line in text.splitlines() if line.strip()]
    return [word for word in first if word in names]


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """80 columns, whatever terminal the tests run in."""
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("columns", [44, 50, 66, 80, 81, 100, 200])
def test_blocks_fit_and_lose_nothing(columns: int) -> None:
    """No line is longer; each block has the methods; cells and the words of heads are whole, in their order."""
    text = blocks("method", METHODS, CELLS, columns)
    assert max(map(len, text.splitlines())) <= columns
    parts = text.split("\n\n")
    assert all(order(part, *METHODS) == METHODS for part in parts)
    for row in range(3):
        lines = [line for line in text.splitlines() if line.startswith(METHODS[row])]
        assert "   ".join(line.split(maxsplit=1)[1] for line in lines) == "   ".join(
            cells[row] for cells in CELLS.values()
        )
    assert {word for head in HEADS for word in head.split()} <= set(text.split())


def test_as_many_columns_as_fit_stand_side_by_side() -> None:
    """The longest method takes 20, a column 20 and a gap of 3: three columns from 89 on, two before, one below 66."""
    count = [len(blocks("method", METHODS, CELLS, columns).split("\n\n")) for columns in (65, 66, 88, 89, 111, 112)]
    assert count == [4, 2, 2, 2, 2, 1]


@pytest.mark.parametrize("columns", range(20, 44))
def test_the_narrowest_terminals_fold_words_before_lines_are_torn(columns: int) -> None:
    """Every letter is there, in lines that fit."""
    text = (
        blocks("method", METHODS, CELLS, columns)
        + "\n"
        + grid(["key", "what"], [["deadbeef", "a long word" * 9]], columns)
    )
    assert max(map(len, text.splitlines())) <= columns
    letters = sorted("".join([*HEADS, *(cell for cells in CELLS.values() for cell in cells)]).replace(" ", ""))
    shown = sorted("".join(text.split()))
    assert all(shown.count(letter) >= letters.count(letter) for letter in set(letters))


def test_a_grid_wraps_its_widest_column() -> None:
    """The short ones stay on one line; what is too long continues below itself."""
    text = grid(["cell", "metrics"], [["deadbeef", "pointing_game done, " * 5]], 40)
    first, *others = text.splitlines()[2:]
    assert first.startswith("deadbeef   pointing_game") and len(others) == 4
    assert all(line.startswith(" " * 11 + "pointing_game") for line in others)


def test_square_brackets_are_no_markup() -> None:
    """An interval or `method=[a]` is text."""
    assert "[bold]x[/bold]" in grid(["a"], [["[bold]x[/bold]"]], 40)


def test_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """What COLUMNS says; 80 where nobody says anything."""
    monkeypatch.setenv("COLUMNS", "133")
    assert width() == 133
    monkeypatch.delenv("COLUMNS")
    monkeypatch.setattr(sys, "__stdout__", None)  # no terminal
    assert width() == 80


def test_no_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes in a pipe and a terminal, whatever a tool asks for."""
    plain = blocks("method", METHODS, CELLS)
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.setenv(name, "1")
        assert blocks("method", METHODS, CELLS) == plain
    assert "\x1b" not in plain


def test_words_stay_whole_when_lines_are_wrapped() -> None:
    """A path can be copied; what follows is indented."""
    path = "/a/long-path/" + "x" * 90
    assert wrapped(f"  rows: {path} b").splitlines() == ["  rows:", f"    {path}", "    b"]


def test_letters_that_standard_output_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question mark, not a crash at the end of a run."""

    class Latin:
        encoding = "latin-1"

    monkeypatch.setattr(sys, "stdout", Latin())
    assert printable("auroc ↑ é") == "auroc ? é"


# Ranking


def test_the_best_is_first_by_the_first_quantity() -> None:
    """Lower is better: ascending; a method without that quantity is last; each head has its arrow."""
    rows = [{"method": "b", "value": 0.7}, {"method": "a", "value": 0.9}, {"method": "c", "value": 0.2}]
    hits = [{"metric": "hits", "method": name, "higher_is_better": True} for name in ("z", "a", "b", "c")]
    text = text_of(*rows, *hits)
    assert order(text, "a", "b", "c", "z") == ["c", "b", "a", "z"]
    assert "drop ↓" in text and "hits ↑" in text and text.endswith("best first by drop")
    assert order(text_of(*hits[::-1], *rows), "a", "b", "c", "z") == ["a", "b", "c", "z"]  # equal ones by name


def test_a_direction_that_is_not_known_ranks_nothing() -> None:
    """No arrow, and the next quantity decides; without any, names do."""
    unknown = [{"metric": "area", "method": name, "higher_is_better": None} for name in ("b", "a")]
    assert order(text_of(*unknown), "a", "b") == ["a", "b"]
    assert not {"↑", "↓", "best"} & set(text_of(*unknown).split())
    ranked = text_of(*unknown, {"method": "a", "value": 0.9}, {"method": "b", "value": 0.1})
    assert order(ranked, "a", "b") == ["b", "a"] and "area ↓" not in ranked


def test_floors_are_marked() -> None:
    """Where they stand in the ranking, with a word that needs no legend."""
    text = text_of({"method": "rap", "value": 0.1}, {"method": "center", "value": 0.3}, floors=("center", "edges"))
    assert "center (floor)" in text and "rap (" not in text and "edges" not in text


def test_two_settings_of_one_method_are_two_lines() -> None:
    """Each with its own number and place in the ranking, also of detectors; the floor's mark stays."""
    settings = [f'{{"method": {{"steps": {steps}}}}}' for steps in (8, 16)]
    rows = [
        {"method": "ig", "value": value, "settings": each} for value, each in zip((0.7, 0.2), settings, strict=True)
    ]
    text = text_of(*rows, {"method": "center", "value": 0.4, "settings": "{}"}, floors=("center",))
    lines = [line.split("   ")[0] for line in text.splitlines() if line.startswith(("ig", "center"))]
    assert lines == ["ig (steps=16)", "center (floor)", "ig (steps=8)"]
    assert "ig (steps=8)     0.700" in text
    ood = {"reference": "scenes", "metric": "ood", "stat": "fpr", "dataset": "one"}
    text = text_of(*({**row, **ood} for row in rows))
    assert "ig (steps=16)   20.00" in text and "ig (steps=8)    70.00" in text


def test_detectors_are_ranked_over_the_sets() -> None:
    """By the mean of the first quantity; a missing set leaves its place empty, a missing value a dash."""
    ood = {"reference": "scenes", "metric": "ood"}
    rates = [("a", "one", 0.5), ("a", "two", 0.1), ("b", "one", 0.2), ("b", "two", 0.3), ("c", "one", 0.9)]
    rows = [{**ood, "stat": "fpr", "method": m, "dataset": d, "value": v} for m, d, v in rates]
    area = {**ood, "stat": "auroc", "method": "a", "dataset": "one", "value": 0.8, "higher_is_better": True}
    text = text_of(*rows, area)
    assert text.startswith("scenes against ...: fpr ↓ / auroc ↑, percent")
    assert order(text, "a", "b", "c") == ["b", "a", "c"]
    cells = {
        line.split()[0]: line.split(maxsplit=1)[1] for line in text.splitlines() if line[0] in "abc" and line[1] == " "
    }
    assert cells == {"a": "50.00 / 80.00   10.00 / -", "b": "20.00 / -       30.00 / -", "c": "90.00 / -"}


def test_known_images_of_two_kinds_have_a_table_each() -> None:
    """The test set alone, and with shifted images of its classes: both numbers stand under their own title."""
    ood = {"stat": "auroc", "method": "a", "dataset": "one", "higher_is_better": True}
    plain = {**ood, "reference": "scenes", "metric": "ood", "value": 0.9}
    text = text_of(plain, {**ood, "reference": "scenes + blurred", "metric": "full_spectrum", "value": 0.7})
    first, second = text.split("scenes + blurred against ...")
    assert "scenes against ..." in first and "90.00" in first and "70.00" not in first
    assert "70.00" in second and "90.00" not in second


def test_failures_stand_below_and_are_wrapped() -> None:
    """A long reason is cut between words."""
    why = "failed:" + "RuntimeError: the reason is long " * 5
    text = text_of({}, {"method": "rap", "value": None, "headline": False, "status": why})
    assert "rap x drop: failed:RuntimeError" in text
    assert max(map(len, text.splitlines())) <= 80
