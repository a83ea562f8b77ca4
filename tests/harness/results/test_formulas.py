"""Texts that a spreadsheet would compute, or a reader of tables lose."""

import io
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from assay.harness.results.formulas import plain, plain_cells, quoted, quoted_cells
from assay.harness.results.reading import read_table
from assay.harness.results.tidy import write_csv

FORMULAS = [
    "=1+1",
    "+1+1",
    "-1+1",
    "-",
    "-x",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "'=1",
    "''-1",
    "=HYPERLINK(1)",
    "'-0.5",
    "=0.5",
]
NUMBERS = ["-0.5", "+3", "-1e-07", "-.5", "-inf", "-nan", "0.5"]
TEXTS = ["", "a=b", "'", "'a", "NA", "nan", "None", "null", "x\ny", 'say "no"', "a,b", "{}", "1-1", "Ä"]


@pytest.mark.parametrize("text", FORMULAS, ids=repr)
def test_a_formula_is_quoted_and_comes_back(text: str) -> None:
    """OWASP: an apostrophe before = + - @ tab CR; one more before what looks quoted already."""
    assert quoted(text) == f"'{text}"
    assert plain(quoted(text)) == text


@pytest.mark.parametrize("text", [*NUMBERS, *TEXTS], ids=repr)
def test_anything_else_stays(text: str) -> None:
    """Numbers above all: -0.5 is no formula."""
    assert quoted(text) == plain(text) == text


def test_a_table_comes_back_as_it_was(tmp_path: Path) -> None:
    """Through a file: every text, beside numbers and truths that stay of their type; no cell begins like a formula."""
    texts = [*FORMULAS, *TEXTS]
    truths = [None if number % 3 == 0 else number % 3 == 1 for number in range(len(texts))]
    frame = pd.DataFrame({"text": texts, "value": [-float(n) for n in range(len(texts))], "is": truths})
    write_csv(frame, tmp_path / "t.csv")
    again = read_table(tmp_path / "t.csv", ["text"])
    assert again["text"].tolist() == texts and again["value"].tolist() == frame["value"].tolist()
    assert [None if pd.isna(each) else bool(each) for each in again["is"]] == truths
    raw = pd.read_csv(tmp_path / "t.csv", dtype=str, keep_default_na=False)["text"]
    assert not raw.str.match(r"[=+\-@\t\r]").any()


@pytest.mark.parametrize("kind", [object, "str"])
def test_numbers_that_are_texts_stay(kind: Any) -> None:
    """A tidy table is updated as text."""
    frame = pd.DataFrame({"value": pd.Series(NUMBERS, dtype=kind)})
    assert quoted_cells(frame)["value"].tolist() == NUMBERS
    assert (
        plain_cells(pd.read_csv(io.StringIO(frame.to_csv()), dtype=str, keep_default_na=False)).value.tolist()
        == NUMBERS
    )
