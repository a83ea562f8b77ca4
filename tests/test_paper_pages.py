"""What the pages of papers say in numbers stands in the committed tables, ours or in print."""

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[1]
NUMBER = re.compile(r"(?<![\w./])\d*\.\d{2,3}\b")  # .115, 79.23
# The grids of docs/metrics/grid_pointing.md; a note of Table 10; where ReAct clips; differences, an interval's end.
ELSEWHERE = {
    "rap": {".573", ".981"},
    "hedging": {".034", ".047", ".080", ".243"},
    "liftcam": {"52.95"},
    "line": {".41"},
    "conductance": set[str](),
}


def ways(value: float) -> Iterator[str]:
    """As fractions and as percent, as pages print them."""
    for number in (abs(value), 100 * abs(value)):
        yield from (f"{number:.3f}".removeprefix("0"), f"{number:.2f}".removeprefix("0"))


@pytest.mark.parametrize("page", ELSEWHERE)
def test_numbers_are_the_tables(page: str) -> None:
    """Each number of two or three decimals is a value or a published figure of one of the paper's tables."""
    tables = [pd.read_csv(path) for path in sorted((ROOT / "results/tables").glob(f"{page}_*.csv"))]
    known = {way for table in tables for value in (*table["value"], *table["reported"]) for way in ways(value)}
    said = set(NUMBER.findall((ROOT / f"docs/papers/{page}.md").read_text()))
    assert len(said) > 40 and sorted(said - known - ELSEWHERE[page]) == []
