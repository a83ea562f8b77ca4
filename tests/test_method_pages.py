"""Every method and metric of conf/ has a page with formula, conventions, sources, and what it is checked against."""

import re
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ["Name", "Paper", "Original code, licence", "Needs", "Checked against"]
HEADINGS = {
    "methods": ["Formula", "Conventions", "Where it misleads", "Facts"],
    "metrics": ["Conventions", "A worked value", "How to read it", "Foot-guns", "Facts"],
}
NO_SETTINGS = {"_target_", "defaults", "floor"}
PAGES_OF = {
    kind: sorted({*(ROOT / "docs" / kind).glob("*.md")} - {ROOT / "docs" / kind / "README.md"}) for kind in HEADINGS
}
PAGES = [page for pages in PAGES_OF.values() for page in pages]


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
    rows = [fact for page in PAGES_OF[kind] for fact in facts(page)]
    assert sorted(fact.name for fact in rows) == sorted(path.stem for path in (ROOT / "conf" / folder).glob("*.yaml"))
    assert [fact.cells for fact in rows if len(fact.cells) != len(COLUMNS)] == []
    unchecked = [fact.name for fact in rows if not fact.cells[4]]
    assert unchecked == []


@pytest.mark.parametrize(("kind", "folder"), [("methods", "method"), ("metrics", "metric")])
def test_every_setting_is_named(kind: str, folder: str) -> None:
    """A config's settings stand as code on its page, where a convention that is none of the defaults can be found."""
    pages = {fact.name: page for page in PAGES_OF[kind] for fact in facts(page)}
    unsaid = []
    for name, page in pages.items():
        text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
        spans = " ".join(re.findall(r"`([^`]+)`", text))
        settings = yaml.safe_load((ROOT / "conf" / folder / f"{name}.yaml").read_text()).keys() - NO_SETTINGS
        unsaid += [f"{name}.{setting}" for setting in settings if not re.search(rf"\b{setting}\b", spans)]
    assert sorted(unsaid) == []


def test_a_metrics_page_has_its_name() -> None:
    """`docs/metrics/NAME.md`, as README and rows say it."""
    pages = PAGES_OF["metrics"]
    assert {page.stem: [fact.name for fact in facts(page)] for page in pages} == {p.stem: [p.stem] for p in pages}


def test_tests_that_pages_name_are_there() -> None:
    """Each page names some."""
    named = {page: re.findall(r"`(tests/[\w/.]+)`", page.read_text()) for page in PAGES}
    assert [page.stem for page, paths in named.items() if not paths] == []
    gone = [f"{page.stem}: {path}" for page, paths in named.items() for path in paths if not (ROOT / path).exists()]
    assert gone == []


@pytest.mark.parametrize("kind", HEADINGS)
def test_the_overview_names_every_page(kind: str) -> None:
    """A line each, with the names that the page has facts of, once."""
    overview = (ROOT / "docs" / kind / "README.md").read_text()
    lines = {page: re.findall(rf"^\|.*\({page}\.md\).*$", overview, re.M) for page in (p.stem for p in PAGES_OF[kind])}
    assert {page: len(found) for page, found in lines.items()} == dict.fromkeys(lines, 1)
    said = {page: sorted(re.findall(r"`(\w+)`", found)) for page, (found,) in lines.items()}
    assert said == {page.stem: sorted(fact.name for fact in facts(page)) for page in PAGES_OF[kind]}
