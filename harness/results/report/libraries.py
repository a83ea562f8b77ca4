"""The scripts that the page brings along, compressed: Plotly for charts, DataTables (of itables) for tables."""

import base64
import gzip
from functools import cache
from importlib.resources import files


def packed(text: str) -> str:
    """gzip in base64, the same for the same text."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


@cache
def charts() -> str:
    """Plotly's script, packed."""
    return packed((files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8"))


@cache
def tables() -> str:
    """DataTables as a module that exports `jQuery`, packed."""
    return packed(_bundle("js"))


@cache
def table_styles() -> str:
    """Its style sheet, as it stands."""
    return _bundle("css")


def _bundle(kind: str) -> str:
    return (files("itables") / "html" / f"dt_bundle.{kind}").read_text(encoding="utf-8")
