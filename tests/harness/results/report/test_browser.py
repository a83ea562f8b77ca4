"""The report in a headless Chromium: sort, filter, open a sample; no error, no outside request, nothing too wide.

Needs `chromium` (or what $CHROMIUM names) and the package `playwright`; skipped with the reason where one is missing.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from assay.harness.results.report.page import write_report
from assay.harness.results.report.pictured import Sample, data_uri, write
from assay.harness.store.identity import SCHEMA
from assay.harness.store.outcomes import Finished
from assay.harness.store.store import CellStore, Shard
from browsers import headless
from PIL import Image
from tidy_rows import curve, table

pytestmark = pytest.mark.slow

EVIL = "<img src=x onerror=alert(1)>"
METHODS = {"a": [1.0, 0.0, 1.0, 1.0], "b": [0.0, 0.0, 1.0, 0.0], EVIL: [1.0, 0.0, 0.0, 1.0]}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium, as Playwright drives it."""
    with headless() as made:
        yield made


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of three methods, one named like markup: a leaderboard that is tested, a curve, pictures of samples."""
    results = tmp_path_factory.mktemp("report")
    rows: list[dict[str, Any]] = []
    for number, (method, hit) in enumerate(METHODS.items()):
        _store(results / "store", f"c{number}", hit)
        about = {"method": method, "cell_key": f"c{number}", "metric_key": "m", "higher_is_better": True}
        rows += [about | {"value": float(np.mean(hit))}, *curve(method, [0.1, 0.2])]
        rows.append(about | {"metric": "drop", "value": float(number), "higher_is_better": False, "variant": "x" * 60})
    late = {"metric": "late", "higher_is_better": True}
    rows += [late | {"method": "a", "value": 0.5}, late | {"method": EVIL, "value": 1e-05}]
    maps = {f"c{number}": _pixel() for number in range(len(METHODS))}
    write(results / "report", "r", [Sample("i0#1", EVIL, _pixel(), maps, {"c0": True, "c1": False})])
    write(results / "report", "s", [Sample("i3#1", "other", _pixel(), {"c0": _pixel()}, {"c0": True})])
    return write_report(table(*rows), results / "report", ["b"])


def _pixel() -> str:
    """A picture of one pixel."""
    sink = io.BytesIO()
    Image.new("RGB", (1, 1)).save(sink, "WEBP")
    return data_uri(sink.getvalue())


def _store(root: Path, key: str, hit: list[float]) -> None:
    cell, images = CellStore(root, key), np.array([f"i{n}" for n in range(4)], dtype=object)
    who = {"position": np.arange(4), "sample_id": images + "#1"}
    described: dict[str, Any] = {"samples": {}, "m": {"name": "pointing_game", "paired": ["hit"], "identity": {}}}
    labels = {"kind": "attribution", "method": key}
    cell.describe({"identity": {"schema": SCHEMA}, "labels": labels}, described)
    cell.group("samples").write(Shard(0, 4), who | {"image_id": images})
    cell.group("m").write(Shard(0, 4), who | {"hit": np.array(hit)})
    cell.group("m").finish(4, Finished("r", "test", []))


class Opened:
    """The report in a window, with what it complained of and asked for."""

    def __init__(self, browser: Any, path: Path, width: int, colours: str) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=colours)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(f"dialog {dialog.message}"))
        self.page.on("request", self._asked)
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-ready]", state="attached", timeout=60_000)

    def _asked(self, request: Any) -> None:
        if not request.url.startswith(("file:", "blob:", "data:")):
            self.complaints.append(f"request {request.url}")

    def shows(self, *methods: str) -> None:
        """Wait until the leaderboard has these methods in this order."""
        from playwright.sync_api import expect

        expect(self.page.locator("table.board tbody th")).to_have_text([*methods])


@pytest.fixture
def opened(browser: Any, page_path: Path) -> Iterator[Opened]:
    """At a desk."""
    made = Opened(browser, page_path, 1440, "light")
    yield made
    made.context.close()
    assert made.complaints == []


def test_a_heading_sorts(opened: Opened) -> None:
    """By a quantity the best first (whatever that is), then the other way round; with the keyboard, too."""
    opened.shows("a", EVIL, "b (floor)")
    head = opened.page.locator("table.board thead th").nth(2)
    head.click()
    opened.shows("a", "b (floor)", EVIL)  # drop: 0, 1, 2
    head.click()
    opened.shows(EVIL, "b (floor)", "a")
    opened.page.locator("table.board thead th").nth(1).get_by_role("button").focus()
    opened.page.keyboard.press("Enter")
    opened.shows("a", EVIL, "b (floor)")


def test_what_is_missing_is_last_whichever_way(opened: Opened) -> None:
    """And 1e-05 is a number."""
    names = opened.page.locator("table.board thead th").all_inner_texts()
    head = opened.page.locator("table.board thead th").nth(next(n for n, name in enumerate(names) if "late" in name))
    head.click()
    opened.shows("a", EVIL, "b (floor)")
    head.click()
    opened.shows(EVIL, "a", "b (floor)")


def test_the_field_filters(opened: Opened) -> None:
    """By the method's name."""
    opened.page.get_by_label("filter methods:").fill("floor")
    opened.shows("b (floor)")


def test_charts_are_drawn_when_they_are_seen(opened: Opened) -> None:
    """Every visible one; another quantity on request; names in them are text."""
    for chart in opened.page.locator(".chart:visible").all():
        chart.scroll_into_view_if_needed()
        chart.locator(".main-svg").first.wait_for(timeout=20_000)
    select = opened.page.get_by_label("quantity").first
    select.scroll_into_view_if_needed()
    select.select_option(index=1)
    opened.page.locator(".choice").first.locator(".chart:visible .main-svg").first.wait_for(timeout=20_000)
    assert EVIL in opened.page.locator(".choice").first.locator(".chart:visible").inner_text()


def test_a_sample_opens(opened: Opened) -> None:
    """With the keyboard: all methods over it, with values; Escape closes it."""
    opened.page.locator(".picks button").first.focus()
    opened.page.keyboard.press("Enter")
    dialog = opened.page.locator("dialog[open]")
    assert dialog.locator("h2").inner_text() == f"{EVIL} (i0#1)"
    assert dialog.locator("figcaption").all_inner_texts() == [
        "image",
        "a hit",
        EVIL,
        "b (floor) miss",
    ]  # the best first
    assert dialog.locator("img").evaluate_all("images => images.every((image) => image.naturalWidth > 0)")
    opened.page.keyboard.press("Escape")
    assert opened.page.locator("dialog[open]").count() == 0


def test_a_map_that_was_not_drawn_is_no_picture(opened: Opened) -> None:
    """Of the sample that only one method was drawn on, another one shows the image once, and says so; opened, too."""
    opened.page.locator(".samples select").select_option("b (floor)")
    card = opened.page.locator('.picks button[title="i3#1"]').first
    assert card.locator("img").count() == 1 and "b (floor): not drawn" in card.inner_text()
    card.click()
    assert "not drawn: " in opened.page.locator("dialog[open] .all").inner_text()
    opened.page.keyboard.press("Escape")


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_is_wider_than_the_window(browser: Any, page_path: Path, width: int, colours: str) -> None:
    """A long table scrolls in its own frame; light and dark take effect."""
    made = Opened(browser, page_path, width, colours)
    assert made.page.evaluate("document.documentElement.scrollWidth") <= width
    paper = made.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") is (colours == "light")
    made.context.close()
    assert made.complaints == []
