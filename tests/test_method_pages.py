"""Every method and metric of conf/ has a page with formula, conventions, sources, and what it is checked against."""

import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ["Name", "Paper", "Original code, licence", "Needs", "Checked against"]
HEADINGS = {
    "methods": ["Formula", "Conventions", "Where it misleads", "Facts"],
    "metrics": ["Conventions", "A worked value", "How to read it", "Foot-guns", "Facts"],
}
PAGES = [page for kind in HEADINGS for page in sorted((ROOT / "docs" / kind).glob("*.md")) if page.name != "README.md"]


class Fact(NamedTuple):
    """A row of a page's last table."""

    page: Path
    cells: list[str]

    @property
    def name(self) -> str:
        """Of the config."""
        return self.cells[0].strip("`")


def facts(page: Path) -> list[Fact]:
    """Rows of the table under `## Facts`."""
    lines = page.read_text().partition("\n## Facts\n")[2].partition("\n## ")[0].splitlines()
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines if line.startswith("|")]
    assert rows and rows[0] == COLUMNS, f"{page}: no table {COLUMNS} under ## Facts"
    return [Fact(page, row) for row in rows[2:]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_a_page_has_the_agreed_parts(page: Path) -> None:
    """In the agreed order, whatever stands between them."""
    headings = re.findall(r"^## (.+)$", page.read_text(), re.M)
    agreed = HEADINGS[page.parent.name]
    assert [heading for heading in headings if heading in agreed] == agreed


@pytest.mark.parametrize(("kind", "folder"), [("methods", "method"), ("metrics", "metric")])
def test_every_config_has_one_row(kind: str, folder: str) -> None:
    """On one page, with a paper (or that there is none), and a test that is there."""
    rows = [fact for page in PAGES if page.parent.name == kind for fact in facts(page)]
    assert sorted(fact.name for fact in rows) == sorted(path.stem for path in (ROOT / "conf" / folder).glob("*.yaml"))
    assert [fact.cells for fact in rows if len(fact.cells) != len(COLUMNS)] == []
    unchecked = [fact.name for fact in rows if not fact.cells[4]]
    assert unchecked == []


def test_a_metrics_page_has_its_name() -> None:
    """`docs/metrics/NAME.md`, as README and rows say it."""
    pages = [page for page in PAGES if page.parent.name == "metrics"]
    assert {page.stem: [fact.name for fact in facts(page)] for page in pages} == {p.stem: [p.stem] for p in pages}


def test_tests_that_pages_name_are_there() -> None:
    """Each page names some."""
    named = {page: re.findall(r"`(tests/[\w/.]+)`", page.read_text()) for page in PAGES}
    assert [page.stem for page, paths in named.items() if not paths] == []
    gone = [f"{page.stem}: {path}" for page, paths in named.items() for path in paths if not (ROOT / path).exists()]
    assert gone == []


@pytest.mark.parametrize("kind", HEADINGS)
def test_the_overview_names_every_page(kind: str) -> None:
    """With all names on it."""
    overview = (ROOT / "docs" / kind / "README.md").read_text()
    pages = [page for page in PAGES if page.parent.name == kind]
    assert [page.stem for page in pages if f"({page.name})" not in overview] == []
    assert [fact.name for page in pages for fact in facts(page) if f"`{fact.name}`" not in overview] == []
