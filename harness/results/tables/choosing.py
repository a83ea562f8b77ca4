"""Of the rows that fit an entry, the one result that it shows: never one of several settings, never half a mean."""

import math
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import pandas as pd

from ..settings import KEYS, OF_METHODS, SHOWN, apart, method_settings, quantity_settings
from .entries import PATTERNS, Found, Result, Runs, Settings

SEED_OF_IMAGES = re.compile(r"@seed(\d+)$")  # at the end of a split: `val[:1000]@seed3`
SEED = re.compile(r"(.*\.)?seed")
VERSIONS = ("version", "metric.version")
OF_A_PART = re.compile(r"readings\..*\bversion|(.*\.)?versions\..*")  # VERSION of a reading, or of a method's part
NUMBER = "row_number"  # of a row in the tidy table, which a statistic made of it shares

Row = dict[str, Any]  # of the tidy table


def settings_of(row: Row) -> dict[str, Any]:
    """All that decides a row's number but its names and the part of the data, by dotted name."""
    columns = {name: row.get(name, "") for name in OF_METHODS}
    return method_settings(**columns) | quantity_settings(columns["settings"])


def fits(row: Row, wanted: Settings) -> bool:
    """Whether a row has the settings that are asked for."""
    held = settings_of(row) if wanted else {}
    return all(_agrees(held, name, value) for name, value in wanted.items())


def _agrees(held: Settings, name: str, wanted: Any) -> bool:
    """A list is meant as it stands: a pattern's brackets are a choice of letters. None: null, or not there."""
    if wanted is None:
        return held.get(name) is None and not any(key.startswith(f"{name}.") for key in held)
    found = held.get(name, "none")
    return list(wanted) == found if isinstance(wanted, list) else fnmatchcase(str(found), str(wanted))


def refusals(rows: Sequence[Row], asked: Settings, wanted: Settings) -> list[str]:
    """Of rows that do not fit, what each has in the place of what is asked for; rows alike are said once."""
    return list(dict.fromkeys(", ".join(_unasked(row, asked, wanted)) for row in rows))


def _unasked(row: Row, asked: Settings, wanted: Settings) -> Iterator[str]:
    yield from (f"{name}={row[name] or 'none'}" for name in PATTERNS if not fnmatchcase(row[name], asked[name]))
    held = settings_of(row) if wanted else {}
    yield from (f"{name}={held.get(name, 'none')}" for name, value in wanted.items() if not _agrees(held, name, value))


def choose(rows: Sequence[Row], runs: Runs | None) -> Found:
    """One result of the rows, which are in the order of their number of samples."""
    wanted = [row for row in rows if runs is None or _run(row, runs) in runs.seeds]
    current = _of_the_newest_version(wanted)
    found = _one(current) if runs is None else _of_runs(current, runs)
    return found._replace(ours=found.ours._replace(others=len(wanted) - len(found.rows))) if found.ours else found


def _of_runs(rows: Sequence[Row], runs: Runs) -> Found:
    """The mean of as many images' runs, or the one that is asked for."""
    if several := _unlike([_without_seeds(settings_of(row)) for row in rows]):
        return Found(several=several, rows=_row_numbers(rows))
    made = [_one(each) for each in _most_runs(rows, runs).values()]
    if doubtful := [each for each in made if each.several]:
        return doubtful[0]
    results, taken = [each.ours for each in made if each.ours], tuple(place for each in made for place in each.rows)
    if len(results) < len(runs.seeds):
        return Found(done=len(results), rows=taken)
    return Found(results[0] if runs.only else _mean(results), rows=taken)


def _of_the_newest_version(rows: Sequence[Row]) -> list[Row]:
    """What an older VERSION of a method, metric, part or reading gave is not what it gives.

    A part or reading goes by its place: its versions are compared where all other settings are equal.
    """
    current = _newest(rows)
    parts = [_Parts.of(row) for row in current]
    newer = [any(each.displaces(mine) for each in parts) for mine in parts]
    return [row for row, displaced in zip(current, newer, strict=True) if not displaced]


class _Parts(NamedTuple):
    """A row's settings: the VERSIONs of parts and readings, and all others but its method's and metric's."""

    versions: dict[str, int]
    others: dict[str, Any]

    @classmethod
    def of(cls, row: Row) -> "_Parts":
        held = {name: value for name, value in settings_of(row).items() if name not in VERSIONS}
        versions = {name: value for name, value in held.items() if OF_A_PART.fullmatch(name)}
        return cls(versions, {name: value for name, value in held.items() if name not in versions})

    def displaces(self, older: "_Parts") -> bool:
        """Whether it is newer in some part, older in none, and has what the older one says of all else.

        It may say more: a newer VERSION has more settings. Of a part whose VERSION is not said, it is the first.
        """
        names = self.versions.keys() | older.versions.keys()
        both = [(self.versions.get(name, 1), older.versions.get(name, 1)) for name in names]
        is_newer = any(mine > its for mine, its in both) and all(mine >= its for mine, its in both)
        return is_newer and older.others.items() <= self.others.items()


def _newest(rows: Sequence[Row]) -> list[Row]:
    """The rows of which each of VERSIONS is the highest of all rows."""
    settings = [settings_of(row) for row in rows]
    versions = [[each.get(name, 0) for name in VERSIONS] for each in settings]
    newest = [max(each) for each in zip(*versions, strict=True)]
    return [row for row, each in zip(rows, versions, strict=True) if each == newest]


def _one(rows: Sequence[Row]) -> Found:
    """The row of most samples, unless another that is as good has another number."""
    if not rows:
        return Found()
    row, largest = rows[-1], [each for each in rows if each["n"] == rows[-1]["n"]]
    several = _unlike([settings_of(each) for each in rows]) if _numbers_differ(rows) else ()
    several = several or (_unlike([_place(each) for each in largest]) if _numbers_differ(largest) else ())
    if several:
        return Found(several=several, rows=_row_numbers(rows))
    return Found(
        Result(*_numbers(row), int(row["n"]), {name: row[name] for name in PATTERNS}), rows=_row_numbers([row])
    )


def _row_numbers(rows: Sequence[Row]) -> tuple[int, ...]:
    """Of rows in the tidy table."""
    return tuple(row[NUMBER] for row in rows)


def _numbers_differ(rows: Sequence[Row]) -> bool:
    return len({repr(_numbers(row)) for row in rows}) > 1


def _place(row: Row) -> dict[str, Any]:
    """Which data, and where they are stored: what tells two rows of equal settings apart."""
    keys = {name: row.get(name, "")[:SHOWN] for name in KEYS}
    return {"split": row["split"], **keys}


def _numbers(row: Row) -> tuple[float, float, float]:
    return float(row["value"]), float(row["ci_low"]), float(row["ci_high"])


def _unlike(settings: Sequence[Settings]) -> tuple[str, ...]:
    """What tells them apart, in one order whatever the rows'; nothing if they are all alike."""
    said = sorted(set(apart(settings)), key=lambda text: (len(text), text))
    return tuple(said) if len(said) > 1 else ()


def _without_seeds(settings: Settings) -> dict[str, Any]:
    """Seeds are what runs differ in; a metric that draws has the run's, too."""
    return {name: value for name, value in settings.items() if not SEED.fullmatch(name)}


def _run(row: Row, runs: Runs) -> int | None:
    """The seed of what differs between the runs."""
    if runs.over == "seed":
        return int(row["seed"])
    found = SEED_OF_IMAGES.search(row["split"])
    return int(found[1]) if found else None


def _most_runs(rows: Sequence[Row], runs: Runs) -> dict[int, list[Row]]:
    """Rows by run: of the parts of the data, that with the most runs and, of these, with the most images.

    Runs over draws are on the same images; runs over images are on as many of them, with the same draws.
    """
    parts: dict[tuple[str, str], dict[int, list[Row]]] = {}
    for row in rows:
        rest = (row["split"], "") if runs.over == "seed" else (SEED_OF_IMAGES.sub("", row["split"]), row["seed"])
        run = _run(row, runs)
        assert run is not None
        parts.setdefault(rest, {}).setdefault(run, []).append(row)
    return sorted(parts.values(), key=len)[-1] if parts else {}


def _mean(results: Sequence[Result]) -> Result:
    """Of all runs, each counting as much."""
    values = pd.Series([each.value for each in results])
    found = {name: _common({each.found[name] for each in results}) for name in PATTERNS}
    mean, sigma = float(values.mean(skipna=False)), float(values.std(skipna=False))
    least = min(each.n for each in results)
    return Result(mean, math.nan, math.nan, least, found, sigma=sigma, runs=len(results))


def _common(texts: set[str]) -> str:
    """What all say; of splits that differ in their seed alone, without it."""
    if len(texts) > 1:
        texts = {SEED_OF_IMAGES.sub("@seed*", text) for text in texts}
    return texts.pop() if len(texts) == 1 else "*"
