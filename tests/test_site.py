"""`make docs` builds the pages as a site: every page is in its list, and what is built asks nobody for anything."""

import re
import runpy
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from browsers import headless

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "build/site"
LOADING = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "object": "data"}


class Loader(yaml.SafeLoader):
    """Reads the configuration without making what its one Python tag asks for."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)
CONFIG = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)  # a safe loader's child


def listed(entries: list[str | dict[str, object]]) -> list[str]:
    """Pages of the navigation, whatever their section."""
    found = []
    for entry in entries:
        if isinstance(entry, str):
            found.append(entry)
        else:
            found += [page for inner in entry.values() for page in listed(inner)]  # type: ignore[arg-type]
    return found


def test_every_page_is_in_the_navigation() -> None:
    """Once; a new page is a new line of mkdocs.yml."""
    pages = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
    pages += [str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")]
    pages += [str(path.relative_to(ROOT).with_suffix(".md")) for path in (ROOT / "docs").rglob("*.ipynb")]
    assert sorted(listed(CONFIG["nav"])) == sorted(pages)


def test_links_are_checked_and_nothing_is_fetched() -> None:
    """What the configuration promises: strict about files and anchors, no font host, pages that open as files."""
    assert CONFIG["strict"] is True and CONFIG["theme"]["font"] is False and CONFIG["use_directory_urls"] is False
    assert {CONFIG["validation"]["links"][name] for name in ("not_found", "anchors")} == {"warn"}
    assert CONFIG["plugins"] == ["search", "offline"]
    assert [(ROOT / each).is_file() for each in CONFIG["extra"]["polyfills"]] == [True]


def test_a_notebook_as_a_page() -> None:
    """By hand: text as it is, code as blocks, in order; links to notebooks lead to pages."""
    hook = runpy.run_path(str(ROOT / CONFIG["hooks"][0]))
    cells = [("markdown", ["# A\n", "b"]), ("code", ["x = 1\n", "x"])]
    made = hook["page"]({"cells": [{"cell_type": kind, "source": source} for kind, source in cells]})
    assert made == "# A\nb\n\n```python\nx = 1\nx\n```\n"
    assert hook["on_page_markdown"]("[a](b/c.ipynb), `c.ipynb`") == "[a](b/c.md), `c.ipynb`"


class Loads(HTMLParser):
    """Addresses that a page loads by itself; links that a reader may follow are none."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "link" and given.get("rel") == "canonical":
            return
        self.found += [value for name in [LOADING.get(tag)] if name and (value := given.get(name))]


def make(*words: str) -> subprocess.CompletedProcess[str]:
    """`make docs`; packages are installed where they are not."""
    return subprocess.run(["make", "docs", *words], cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def pages() -> list[Path]:
    """Of the site, built by the real command."""
    done = make()
    assert done.returncode == 0, done.stdout + done.stderr
    return sorted(SITE.rglob("*.html"))


@pytest.mark.slow
def test_a_broken_link_fails() -> None:
    """The README without a file that it links to."""
    done = make("PAGES=README.md CONTRIBUTING.md CHANGELOG.md docs")
    assert done.returncode != 0 and "Doc file 'README.md' contains a link 'CITATION.cff'" in done.stdout + done.stderr


@pytest.mark.slow
def test_the_site_is_built(pages: list[Path]) -> None:
    """Pages stand as lists, tables and blocks, and every file that they load is there."""
    assert len(pages) > 100
    for page in pages:
        text = page.read_text()
        loads = Loads()
        loads.feed(text)
        outside = [each for each in loads.found if re.match(r"(https?:)?//", each)]
        assert outside == [], page
        inside = [each.partition("#")[0].partition("?")[0] for each in loads.found if not each.startswith("data:")]
        root = SITE if page.name == "404.html" else page.parent  # which is served at any address
        assert [each for each in inside if each and not (root / each.lstrip("/")).exists()] == [], page
        assert re.findall(r"<p>[^<]*\n(?:\| |- |\d+\. ).*", text) == [], page  # a list or table that was read as text
    asking = re.compile(r"(?:url\(|@import\s*)[\"']?(?:https?:)?//")
    sheets = sorted(SITE.rglob("*.css"))
    assert sheets and [sheet for sheet in sheets if asking.search(sheet.read_text())] == []


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1440])
def test_pages_in_a_browser(width: int, pages: list[Path]) -> None:
    """As files: nothing is asked of anybody, no error, nothing too wide; and the search finds a page."""
    with headless() as browser:
        page = browser.new_page(viewport={"width": width, "height": 900})
        asked: list[str] = []
        said: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        for name in ("index.html", "docs/methods/relevance.html", "docs/metrics/ood.html", "docs/papers/line.html"):
            page.goto((SITE / name).as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        page.keyboard.press("f")  # search
        page.keyboard.type("excitation backprop", delay=20)
        page.wait_for_selector(".md-search-result__link[href*='relevance.html']", timeout=60_000)
        assert len(asked) > 8 and [url for url in asked if not url.startswith(("file://", "data:", "blob:"))] == []
        assert said == []
