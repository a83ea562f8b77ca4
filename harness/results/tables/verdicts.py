"""What a cell says of the printed figure: a word, and why."""

import math
from typing import NamedTuple

from .entries import Entry, Table
from .order import compared, rounded

WITHIN, SAME, DIFFERS, NOT = "within", "same order", "differs", "not comparable"
TOUCHING = f"{SAME}, not apart"
COUNTED = (WITHIN, SAME, DIFFERS, NOT)  # what they mean: docs/how-to/tables-and-ci.md


class Verdict(NamedTuple):
    """One of COUNTED, or TOUCHING, and the reason where the word does not say it; both empty without both numbers."""

    word: str = ""
    why: str = ""


def verdicts(table: Table) -> list[Verdict]:
    """Of each entry of the table, in its order."""
    groups = compared(table)
    members = {id(entry) for group in groups.values() for entry in group}
    return [_verdict(e, groups[e.ranked_in]) if id(e) in members else Verdict() for e in table.entries]


def counted(table: Table) -> str:
    """How many cells have each word: `12 same order (4 apart), 3 differs`; empty without any."""
    words = [verdict.word for verdict in verdicts(table)]
    return ", ".join(filter(None, (_count(word, words) for word in COUNTED)))


def _count(word: str, words: list[str]) -> str:
    """Of SAME those that are apart, too."""
    number, touching = words.count(word), words.count(TOUCHING)
    if word == SAME and number + touching:
        return f"{number + touching} {word} ({number} apart)"
    return f"{number} {word}" if number else ""


def _verdict(entry: Entry, group: list[Entry]) -> Verdict:
    if entry.near:
        return _beside([each for each in group if each is not entry], entry)
    low, high = _widened(entry)
    if math.isnan(low):
        return Verdict(NOT, "our number has no interval")
    return Verdict(WITHIN if low <= entry.reported <= high else DIFFERS)


def _widened(entry: Entry) -> tuple[float, float]:
    """Our interval, with what the printed figure's rounding hides on both sides."""
    assert entry.ours is not None
    low, high = entry.ours.interval
    half = 0.5 * 10.0**-entry.column.digits / entry.column.scale * (1 + 1e-9)
    return low - half, high + half


def _beside(rivals: list[Entry], entry: Entry) -> Verdict:
    """Of a panel near the paper's: whether the entry stands among its column's rows where it stands in print."""
    if not rivals:
        return Verdict(NOT, "another network or other images, and no row to order it with")
    rivals = [rival for rival in rivals if _side(entry.reported, rival.reported)]
    if not rivals:
        return Verdict(NOT, "print has no order")
    against = [rival for rival in rivals if _turned(entry, rival)]
    if apart := [rival for rival in against if not _overlap(entry, rival)]:
        return Verdict(DIFFERS, f"not on the side that print has of {_names(apart)}")
    if against:
        return Verdict(NOT, f"not on the side that print has of {_names(against)}, whose intervals overlap its own")
    return Verdict(TOUCHING if all(_overlap(entry, rival) for rival in rivals) else SAME)


def _side(one: float, other: float) -> float:
    """Above 0 where one is the greater, 0 where they are level but for rounding."""
    return rounded(one) - rounded(other)


def _turned(one: Entry, other: Entry) -> bool:
    """On the other side than in print, where they are not level, or level."""
    assert one.ours is not None and other.ours is not None
    return _side(one.ours.value, other.ours.value) * _side(one.reported, other.reported) <= 0


def _overlap(one: Entry, other: Entry) -> bool:
    """Also where a number has no interval: nothing tells it apart."""
    assert one.ours is not None and other.ours is not None
    low, high, others_low, others_high = map(rounded, (*one.ours.interval, *other.ours.interval))
    return not (high < others_low or others_high < low)


def _names(entries: list[Entry]) -> str:
    return ", ".join(entry.rank_name for entry in entries)
