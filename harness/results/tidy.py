"""From the store to tidy tables: `results.csv` and `results.parquet` (every number), `runs.csv` (all that happened)."""

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..engine.costs import Summary
from ..places import is_remote, matching, readable, stamps
from ..store.damage import unless_damaged
from ..store.files import Lock, write_atomically
from ..store.identity import SCHEMA, canonical
from ..store.journal import Journal
from ..store.sealed import checksum_of, read_json, read_unsealed, write_json
from ..store.store import CellStore
from ..store.survey import cells
from ..types import ResultRow
from .formulas import plain_cells, quoted_cells
from .kept_rows import ROWS
from .typed import FLOATS, packed

COLUMNS = [
    *("schema", "run_id", "cell_key", "metric_key", "model", "weights", "dataset", "reference", "split", "subset"),
    *("protocol", "method", "kind", "metric", "variant", "stat", "x", "value", "unit", "higher_is_better", "n"),
    *("stderr", "ci_low", "ci_high", "ci_method", "seed", "precision", "status", "x_label", "headline", "settings"),
]
ORDER = [
    *("model", "dataset", "split", "protocol", "method", "metric", "variant", "subset", "stat", "x"),
    *("seed", "precision", "weights", "cell_key", "reference", "metric_key"),
]
RESULTS, TYPED, RUNS, SUMS = "results.csv", "results.parquet", "runs.csv", ".checksums.json"
LOST = "what it says of a run is lost (its results are not): delete it"  # of a damaged record
FAILED_ROW = asdict(ResultRow(variant="", stat="", value=None, n=0, headline=False))


def cell_rows(cell: CellStore, earlier: bool = True) -> Iterator[dict[str, Any]]:
    """Result rows of every finished or failed metric of one cell, and those that its last summary was not asked for."""
    if (about := unless_damaged(cell.cell)) is None:
        return
    labels = {k: v for k, v in about["labels"].items() if k in COLUMNS}
    for key in cell.groups():
        group = cell.group(key)
        metric = group.about()
        shared = {"schema": SCHEMA, "cell_key": cell.key, "metric_key": key, "metric": metric["name"], **labels}
        shared["settings"] = _settings(about["identity"], metric.get("identity", {}))
        shared |= {"reference": metric.get("reference", ""), "kind": metric.get("kind", labels["kind"])}
        shared |= {"precision": metric["precision"]} if "precision" in metric else {}
        for done in filter(None, map(group.finished, group.stops())):
            for row in [*done.rows, *(done.earlier if earlier else ())]:
                yield {**shared, "run_id": done.run_id, "split": done.split, **row}
        if failure := group.failure():
            status = f"failed:{failure.why.splitlines()[0]}"
            yield {**shared, "run_id": "", "split": "", **FAILED_ROW, "status": status}


def _settings(identity: dict[str, Any], metric: dict[str, Any]) -> str:
    """The conventions of method, protocol and metric, and the data's content, as JSON: what tells two rows apart."""
    made = {"method": _public(identity["method"]), "protocol": identity["protocol"]}
    if training := identity.get("training"):
        made["training"] = _seen(training)
    if readings := identity.get("readings"):
        made["readings"] = {str(number): _read(each) for number, each in enumerate(readings)}
    if "metric" in metric:
        made["metric"] = _public(metric["metric"])
    if "dataset" in identity:
        made["data"] = identity["dataset"]["fingerprint"]
    return canonical(made)


def _read(reading: dict[str, Any]) -> dict[str, Any]:
    """What a reading is, its class among it, and what it was prepared on, if on anything."""
    prepared = {"prepared": _seen(reading["prepared"])} if "prepared" in reading else {}
    return reading["reading"] | prepared


def _seen(images: dict[str, Any]) -> dict[str, Any]:
    return {"images": images["images"], "data": images["data"]["dataset"]["fingerprint"]}


def _public(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if not name.startswith("_")}


def results_table(cells: list[CellStore], earlier: bool = True) -> pd.DataFrame:
    """The tidy result table of some cells, in a fixed order; `earlier` as of `cell_rows`."""
    frame = pd.DataFrame([row for cell in cells for row in cell_rows(cell, earlier)], columns=COLUMNS)
    return _ordered(frame.astype(dict.fromkeys(FLOATS, float)))  # an empty column and one of whole numbers, too


def own_rows(summary: Summary) -> pd.DataFrame:
    """The rows of one run; its cells may hold other runs' rows beside them."""
    keys = {(group.cell.key, group.key) for group in summary.groups}
    cells = {group.cell.path: group.cell for group in summary.groups}
    frame = results_table([cells[path] for path in sorted(cells)], earlier=False)
    ours = [pair in keys for pair in zip(frame.cell_key, frame.metric_key, strict=True)]
    return frame[np.array(ours, dtype=bool) & frame.split.isin([*summary.splits, ""])]


def _ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """In the order of ORDER, numbers as numbers even where they are still text."""
    return frame.sort_values(ORDER, kind="stable", na_position="first", key=_sort_key).reset_index(drop=True)


def _sort_key(column: pd.Series) -> pd.Series:
    return pd.to_numeric(column) if column.name in ("x", "seed") else column


def runs_table(runs: Path) -> pd.DataFrame:
    """One row for each method of each invocation: host, versions, overrides, wall time, passes."""
    rows = [row for path in matching(runs, "*/*.json") for row in _run_rows(path)]
    return pd.DataFrame(rows or None, columns=None if rows else ["record", "run_id", "method"])


def put_record(results: Path, run_id: str, moment: str, record: dict[str, Any]) -> None:
    """Write what happened in one invocation; `update` takes it into runs.csv."""
    name = f"{run_id}.{moment}"
    Journal(results / "runs").note(name)
    write_json(_record_path(results, name), {"run_id": run_id, **record})


def _record_path(results: Path, name: str) -> Path:
    run_id, _, moment = name.partition(".")
    return results / "runs" / run_id / f"{moment}.json"


def _run_rows(path: Path) -> Iterator[dict[str, Any]]:
    if (record := read_unsealed(path) or unless_damaged(partial(read_json, path, LOST))) is None:
        return
    methods, _ = record.pop("methods"), record.pop(ROWS, "")
    name = f"{path.parent.name}.{path.stem}"
    yield from ({"record": name, **record, "method": method, **cost} for method, cost in methods.items())


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Atomic CSV; what a spreadsheet would compute is quoted (`formulas`)."""
    write_atomically(path, csv_of(frame))


def csv_of(frame: pd.DataFrame) -> bytes:
    """The bytes of `write_csv`. Every field is in quotes where one holds a carriage return, which may end a line."""
    shown = quoted_cells(frame)
    made = str(shown.to_csv(index=False))
    return (made if "\r" not in made else str(shown.to_csv(index=False, quoting=csv.QUOTE_ALL))).encode()


def _collect_unlocked(results: Path) -> pd.DataFrame:
    """Rebuild the tables, again where somebody has put rows meanwhile: who puts a table last has looked after that."""
    while True:
        before = _stamps(results)
        frame = _rebuild(results)
        if _stamps(results) == before:
            return frame


def _stamps(results: Path) -> dict[str, str]:
    """What tells the rows and records that are there from others."""
    found = {f"{name}/{file}": mark for name in ("store", "runs") for file, mark in stamps(results / name).items()}
    return {file: mark for file, mark in found.items() if file.endswith(".json")}


@contextmanager
def _tables_in_hand(results: Path) -> Iterator[None]:
    lock = Lock(results / "tidy" / ".collect.lock")
    lock.wait()
    try:
        yield
    finally:
        lock.release()


def collect(results: Path) -> pd.DataFrame:
    """Rebuild the tidy tables below `results` from all that is stored; returns the rows of results.csv."""
    if is_remote(results):
        return _collect_unlocked(results)
    with _tables_in_hand(results):
        journals = [Journal(results / name) for name in ("store", "runs")]
        noted = [journal.take() for journal in journals]
        frame = _rebuild(results)
        _remember(results / "tidy")
        for journal, names in zip(journals, noted, strict=True):
            journal.settle(names)
    return frame


def _rebuild(results: Path) -> pd.DataFrame:
    frame = results_table(cells(results / "store"))
    put_tables(frame, results / "tidy")
    write_csv(runs_table(results / "runs"), results / "tidy" / RUNS)
    return frame


def update(results: Path, locked: bool = True) -> None:
    """Bring the tidy tables up to date: only cells whose rows changed, and new records, are read.

    The same bytes as `collect` leaves, at a cost that does not grow with the store; without locks all is read.
    """
    if not locked:
        _collect_unlocked(results)
        return
    with _tables_in_hand(results):
        if known := _known(results / "tidy"):
            _update_results(results, known.results)
            _update_runs(results, known.runs)
            _remember(results / "tidy")
    if known is None:
        collect(results)


class _Known(NamedTuple):
    """The tables as we have left them, every field as it stands there."""

    results: pd.DataFrame
    runs: pd.DataFrame


def _known(tidy: Path) -> _Known | None:
    """None where a kill, a hand or a disk has changed one, and where they have not this version's columns."""
    kept = unless_damaged(partial(read_json, tidy / SUMS)) if (tidy / SUMS).is_file() else None
    if kept != _sums(tidy):
        return None
    results, runs = _as_text(tidy / RESULTS), _as_text(tidy / RUNS)
    if results is None or runs is None or list(results) != COLUMNS or "record" not in runs:
        return None
    return _Known(results, runs)


def _remember(tidy: Path) -> None:
    """What the tables are now: a byte that changes without us would stay for ever."""
    write_json(tidy / SUMS, _sums(tidy))


def _sums(tidy: Path) -> dict[str, str]:
    return {name: checksum_of(tidy / name) for name in (RESULTS, TYPED, RUNS)}


def table_files(rows: pd.DataFrame) -> dict[str, bytes]:
    """results.csv and results.parquet of tidy rows; equal rows give equal bytes."""
    data = csv_of(rows)
    return {RESULTS: data, TYPED: packed(_fields(io.BytesIO(data)), COLUMNS)}


def put_tables(rows: pd.DataFrame, folder: Path) -> None:
    """Write them."""
    for name, data in table_files(rows).items():
        write_atomically(folder / name, data)


def _update_results(results: Path, known: pd.DataFrame) -> None:
    store = results / "store"
    journal = Journal(store)
    noted = journal.take()
    present = [cell for key in sorted(noted) if (cell := CellStore(store, key)).exists()]
    made = _through_text(results_table(present))
    text = _ordered(pd.concat([known[~known["cell_key"].isin(noted)], made]))
    write_csv(text, results / "tidy" / RESULTS)
    write_atomically(results / "tidy" / TYPED, packed(text, COLUMNS))
    journal.settle(noted)


def _update_runs(results: Path, known: pd.DataFrame) -> None:
    journal = Journal(results / "runs")
    noted = journal.take()
    rows = [row for name in noted if (record := _record_path(results, name)).exists() for row in _run_rows(record)]
    if rows:
        frame = pd.concat([known[~known["record"].isin(noted)], _through_text(pd.DataFrame(rows))])
        write_csv(frame.sort_values("record", kind="stable"), results / "tidy" / RUNS)
    journal.settle(noted)


def _as_text(path: Path) -> pd.DataFrame | None:
    """A CSV with every field as it was before it was written: what is written back is what was read."""
    return _fields(readable(path)) if path.is_file() and path.stat().st_size > 1 else None


def _through_text(frame: pd.DataFrame) -> pd.DataFrame:
    return _fields(io.BytesIO(csv_of(frame)))


def _fields(source: Path | io.BytesIO) -> pd.DataFrame:
    return plain_cells(pd.read_csv(source, dtype=str, keep_default_na=False))
