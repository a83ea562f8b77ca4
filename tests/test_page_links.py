"""Every link of every page leads somewhere: files, and headings in them; no network, no library, no site built."""

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md")) + sorted((ROOT / "results/tables").glob("*.md"))
ELSEWHERE = ("http://", "https://", "mailto:")


class Link(NamedTuple):
    """Where a page's line sends its reader."""

    page: Path
    target: str

    @property
    def file(self) -> Path:
        """The page itself for a bare `#heading`."""
        path = unquote(self.target.partition("#")[0])
        return self.page.parent / path if path else self.page

    @property
    def heading(self) -> str:
        return self.target.partition("#")[2]


def prose(page: Path) -> str:
    """Its text without fenced blocks, indented ones and code spans: what looks like a link there is none."""
    text = re.sub(r"^ *(```|~~~).*?^ *\1$", "", page.read_text(), flags=re.M | re.S)
    text = re.sub(r"(?<=\n\n)(?: {4}.*\n+)+", "", text)
    return re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "", text)


def links(page: Path) -> Iterator[Link]:
    """Of links, pictures, and references `[name]: target`."""
    text = prose(page)
    inline = re.findall(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)", text)
    for target in [*inline, *re.findall(r"^\[[^\]]+\]:\s*(\S+)", text, re.M)]:
        if not target.startswith(ELSEWHERE):
            yield Link(page, target)


def anchor(heading: str) -> str:
    """As the forge and the site spell it: lower case, no punctuation, a dash for each blank."""
    bare = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "")
    bare = unicodedata.normalize("NFC", bare).strip().lower()
    return re.sub(r"[^\w\- ]", "", bare).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    """Of its headings; equal ones are numbered from the second on."""
    text = re.sub(r"^ *(```|~~~).*?^ *\1$", "", page.read_text(), flags=re.M | re.S)
    found: dict[str, int] = {}
    made = set()
    for heading in re.findall(r"^#{1,6} +(.*?)(?: +#+)?$", text, re.M):
        name = anchor(heading)
        made.add(f"{name}-{found[name]}" if name in found else name)
        found[name] = found.get(name, 0) + 1
    return made


LINKS = [link for page in PAGES for link in links(page)]


@pytest.mark.parametrize(
    ("heading", "expected"),
    [
        ("What it needs", "what-it-needs"),
        ("`run.py`, and [more](x.md#y)!", "runpy-and-more"),
        ("A/B: 1 + 1", "ab-1--1"),
        ("Was für ein Böhle", "was-für-ein-böhle"),
    ],
)
def test_anchors_are_spelt_as_the_forge_does(heading: str, expected: str) -> None:
    """By hand."""
    assert anchor(heading) == expected


def test_links_are_read_by_hand(tmp_path: Path) -> None:
    """Links and pictures; not in code, not to other hosts."""
    page = tmp_path / "page.md"
    page.write_text(
        "# A b\n\n[x](y.md#z), ![p](p.png 'no'), [q](<r s.md>)\n![p](p.png \"yes\") `[no](no.md)` [h](https://h.org)\n"
        "\n    [no](no.md)\n\n```\n# no\n[no](no.md)\n```\n\n## A b\n\n[ref]: other.md\n"
    )
    assert [link.target for link in links(page)] == ["y.md#z", "p.png", "other.md"]
    assert anchors(page) == {"a-b", "a-b-1"}


def test_links_were_found() -> None:
    """The checks below would pass on nothing."""
    assert len(LINKS) > 150 and sum(bool(link.heading) for link in LINKS) > 15


def test_every_link_leads_to_a_file() -> None:
    """Of this repository, spelt as it is: a folder is none, as a site has no page for it."""
    gone = [f"{link.page.relative_to(ROOT)}: {link.target}" for link in LINKS if not link.file.is_file()]
    assert gone == []


def test_every_heading_is_there() -> None:
    """Of pages; elsewhere nothing is promised."""
    asked = [link for link in LINKS if link.heading and link.file.suffix == ".md" and link.file.is_file()]
    gone = [f"{each.page.relative_to(ROOT)}: {each.target}" for each in asked if each.heading not in anchors(each.file)]
    assert gone == []
