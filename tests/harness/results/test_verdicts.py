"""Verdicts of cells and the rank correlation of a table with its paper's order."""

import math
from typing import Any

import numpy as np
import pytest
from assay.harness.results.tables.entries import Column, Entry, Found, Result, Table
from assay.harness.results.tables.order import agreement, compared, tau_of
from assay.harness.results.tables.rendering import comparison_lines
from assay.harness.results.tables.verdicts import counted, verdicts
from scipy.stats import kendalltau

COLUMN = Column("PG", "pointing_game", "*", "mean")
PRINTED = {"A": 0.9, "B": 0.5, "C": 0.1}


def entry(label: str, ours: float, reported: float, half: float = 0.02, **changes: Any) -> Entry:
    """A cell of the panel P with the interval ours ± half."""
    result = Result(ours, ours - half, ours + half, 9, {})
    return Entry("P", label, COLUMN, {}, Found(result), reported, "")._replace(**changes)


def table(*entries: Entry) -> Table:
    """A table of one panel."""
    return Table("toy", "toy", "by hand", [{"label": "P"}], "toy.csv", entries=list(entries))


def near(half: float, **ours: float) -> Table:
    """Rows of a panel near the paper's, beside PRINTED."""
    return table(*(entry(name, value, PRINTED[name], half, near="another network") for name, value in ours.items()))


def words(made: Table) -> list[str]:
    """Of each cell."""
    return [verdict.word for verdict in verdicts(made)]


@pytest.mark.parametrize("reported, word", [
    (0.866, "within"),
    (0.88, "differs"),
    (0.8704, "within"),
    (0.8706, "differs"),
    (math.nan, ""),
])  # fmt: skip
def test_a_printed_figure_lies_in_the_interval_or_not(reported: float, word: str) -> None:
    """Ours .85 ± .02 at three digits: what prints as .870 may be .8695 to .8705."""
    assert words(table(entry("A", 0.85, reported))) == [word]


def test_a_mean_of_runs_has_students_interval() -> None:
    """Of .25, .5 and 1: mean .58333, sigma .38188; with t = 4.3027 of two degrees the reach is .94866."""
    mean = Result(0.58333, math.nan, math.nan, 9, {}, sigma=0.38188, runs=3)
    assert mean.interval == pytest.approx((0.58333 - 0.94866, 0.58333 + 0.94866), abs=1e-4)
    made = [entry("A", 0, printed, found=Found(mean)) for printed in (1.5, 1.6)]
    assert words(table(made[0])) == ["within"] and words(table(made[1])) == ["differs"]


def test_without_an_interval_nothing_is_said_of_the_figure() -> None:
    """A standard deviation has none."""
    (verdict,) = verdicts(table(entry("A", 0.5, 0.5, math.nan)))
    assert verdict == ("not comparable", "our number has no interval")


def test_near_cells_are_judged_by_their_order() -> None:
    """A stands before B and C, as in print; B and C have changed sides, .2 and .3: apart at ± .02, not at ± .06."""
    ordered = near(0.02, A=0.8, B=0.5, C=0.4)
    assert words(ordered) == ["same order"] * 3 and counted(ordered) == "3 same order (3 apart)"
    turned = near(0.02, A=0.8, B=0.2, C=0.3)
    assert words(turned) == ["same order", "differs", "differs"]
    assert verdicts(turned)[1].why == "not on the side that print has of C"
    wide = verdicts(near(0.06, A=0.8, B=0.2, C=0.3))
    assert [verdict.word for verdict in wide] == ["same order", "not comparable", "not comparable"]
    assert wide[2].why == "not on the side that print has of B, whose intervals overlap its own"
    assert counted(turned) == "1 same order (1 apart), 2 differs"


def test_level_rows_are_in_no_order() -> None:
    """Ours .5 twice, where print has .9 and .5. What print has level, nothing of ours can bear out; beside a C that it
    has lower, A and B are judged by C alone."""
    assert words(near(0.02, A=0.5, B=0.5)) == ["not comparable"] * 2
    level = [entry(name, ours, 0.5, near="another network") for name, ours in (("A", 0.2), ("B", 0.8))]
    assert verdicts(table(*level)) == [("not comparable", "print has no order")] * 2
    assert words(table(*level, entry("C", 0.1, 0.3, near="n"))) == ["same order"] * 3
    assert words(table(*level, entry("C", 0.4, 0.3, near="n"))) == ["differs", "same order", "differs"]


def test_an_order_that_no_interval_bears_out_is_said() -> None:
    """.8, .7, .4 in print's order: at ± .06 A and B touch, C is apart from both; at ± .3 all touch."""
    assert words(near(0.06, A=0.8, B=0.7, C=0.4)) == ["same order"] * 3
    wide = near(0.3, A=0.8, B=0.7, C=0.4)
    assert verdicts(wide) == [("same order, not apart", "")] * 3
    assert counted(wide) == "3 same order (0 apart)"
    mixed, beside = near(0.06, A=0.8, B=0.7), {"A": 0.9, "B": 0.1}
    mixed.entries.extend(entry(name, ours, PRINTED[name], panel="Q", near="n") for name, ours in beside.items())
    assert counted(mixed) == "4 same order (2 apart)"


def test_runs_on_the_same_images_reach_as_far_as_these_allow() -> None:
    """Ten runs with σ .0019 and .0006, .0035 apart: Student's t alone (.00136, .00043) tells them apart, the images' ±
    .08 does not. Where runs have no intervals there is none."""
    runs = Result(0.7114, math.nan, math.nan, 100, {}, sigma=0.0019, runs=10)
    others = runs._replace(value=0.7149, sigma=0.0006)
    assert words(_pair(runs, others)) == ["differs"] * 2
    assert words(_pair(runs._replace(images=0.08), others._replace(images=0.08))) == ["not comparable"] * 2
    assert runs._replace(images=0.08).interval == pytest.approx((0.7114 - 0.08136, 0.7114 + 0.08136), abs=1e-5)
    assert math.isnan(runs._replace(images=math.nan).interval[0])


def _pair(first: Result, second: Result) -> Table:
    """Of which print has the first above the second."""
    return table(*(
        entry(name, 0, PRINTED[name], found=Found(result), near="n") for name, result in (("A", first), ("B", second))
    ))  # fmt: skip


def test_rounding_of_float32_is_no_order() -> None:
    """A and B differ by 2.4e-9, no intervals' width: level. tau is that of the six digits in the csv, 2 of the root of
    2 x 3; what is level in print but for rounding is so, too."""
    ours = {"A": 0.85, "B": 0.85 + 2.4e-9, "C": 0.4}
    assert words(near(0, **ours)) == ["not comparable", "not comparable", "same order"]
    group = column({name: (ours[name], PRINTED[name]) for name in ours})
    assert tau_of(group) == pytest.approx(2 / math.sqrt(6))
    printed = column({name: (PRINTED[name], ours[name]) for name in ours})
    assert tau_of(printed) == pytest.approx(2 / math.sqrt(6))
    assert math.isnan(tau_of([each._replace(reported=0.5 + k * 1e-9) for k, each in enumerate(group)]))


def test_a_near_row_alone_is_not_comparable() -> None:
    """And so is one beside rows without a figure; a row that only the paper has says nothing."""
    made = near(0.02, A=0.8)
    made.entries.append(entry("B", 0.2, math.nan, near="another network"))
    made.entries.append(entry("C", 0.2, 0.1)._replace(found=Found(), external=True))
    assert words(made) == ["not comparable", "", ""]


def test_rows_of_several_panels_may_stand_in_one_order() -> None:
    """Panels P and Q of one row each, last and first layer, in the same order."""
    last, first = ({"among": "layers", "as": name} for name in ("last", "first"))
    made = table(
        entry("A", 0.4, 0.9, near="n", order=last),
        entry("A", 0.5, 0.3, near="n", panel="Q", order=first),
    )
    assert verdicts(made)[0] == ("differs", "not on the side that print has of first")


# Rank correlation


def column(values: dict[str, tuple[float, float]], label: str = "PG") -> list[Entry]:
    """Entries of a column, ours and printed by row."""
    return [entry(name, *both, column=COLUMN._replace(label=label)) for name, both in values.items()]


def test_tau_by_hand() -> None:
    """Of six pairs of 1, 2, 4, 3 one is turned: (5 - 1) / 6; two rows, or a constant side, have no order."""
    rows = {"A": (1.0, 1.0), "B": (2.0, 2.0), "C": (4.0, 3.0), "D": (3.0, 4.0)}
    assert tau_of(column(rows)) == pytest.approx(4 / 6)
    assert math.isnan(tau_of(column(rows)[:2]))
    assert math.isnan(tau_of([each._replace(reported=0.5) for each in column(rows)]))


def test_tau_equals_scipys(seed: int = 3) -> None:
    """With ties on both sides, and (through the interval) with rows drawn again, whose copies make no pair: scipy on
    repeated rows. To 1e-12."""
    from assay.harness.results.tables.order import _Column

    rng = np.random.default_rng(seed)
    for _ in range(20):
        ours, printed = rng.integers(0, 5, (2, 9)).astype(float)
        made = _Column(np.arange(9), ours, printed)
        assert made.tau()[0] == pytest.approx(kendalltau(ours, printed).statistic, abs=1e-12)
        counts = rng.multinomial(9, [1 / 9] * 9)
        again = kendalltau(np.repeat(ours, counts), np.repeat(printed, counts)).statistic
        assert made.tau(counts=counts[None].astype(float))[0] == pytest.approx(again, abs=1e-12)
        order = rng.permutation(9)
        assert made.tau(order=order[None])[0] == pytest.approx(kendalltau(ours[order], printed).statistic, abs=1e-12)


def test_agreement_of_a_table() -> None:
    """One column in order, one reversed: mean 0. A column in order of 4 rows is matched by 1 of its 24 shufflings,
    exactly, one of 7 by that at hand and hardly another of 5040; all draws of its rows are in order."""
    rising = {name: (float(k), float(k)) for k, name in enumerate("ABCD")}
    falling = {name: (-ours, printed) for name, (ours, printed) in rising.items()}
    assert agreement([]) is None and agreement([column(rising)[:2]]) is None
    one = agreement([column(rising)])
    assert one is not None and (one.tau, one.low, one.high, one.rows, one.columns) == (1, 1, 1, 4, 1)
    assert one.chance == 1 / 24
    seven = agreement([column({name: (float(k), float(k)) for k, name in enumerate("ABCDEFG")})])
    assert seven is not None and 1 / 1001 <= seven.chance <= 4 / 1001
    both = agreement([column(rising), column(falling, "other")])
    assert both is not None and (both.tau, both.low, both.high, both.columns) == (0, 0, 0, 2)
    assert both.chance == 1  # rows are shuffled alike in both columns: always 0
    assert agreement([column(rising)]) == one


def test_a_page_says_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verdicts counted, tau with its interval and how few rows there are; of a table without figures nothing."""
    made = table(*column({name: (float(k), float(k)) for k, name in enumerate("ABCD")}))
    verdict, order = comparison_lines(made)
    assert verdict.startswith("Verdicts: 4 within")
    assert "1.00, 95 % interval 1.00 to 1.00 (bootstrap over the 4 rows; few rows: rough)" in order
    assert len(compared(made)) == 1 and comparison_lines(table(entry("A", 0.5, math.nan))) == []
    assert comparison_lines(near(0.02, A=0.8))[1].endswith(
        "none, no column has three rows with both numbers, or an order."
    )
