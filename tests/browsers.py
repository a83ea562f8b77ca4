"""A headless Chromium for the tests of pages, or why there is none."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def headless() -> Iterator[Any]:
    """As Playwright drives it: `chromium`, or what $CHROMIUM names; skips where it or the package is missing."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs: pip install playwright")
    names = [os.environ.get("CHROMIUM", ""), *NAMES]
    found = next(filter(None, map(shutil.which, filter(None, names))), None)
    if found is None:
        pytest.skip(f"needs a browser: {', '.join(NAMES)}, or its path in CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield made
        made.close()
