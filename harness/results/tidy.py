"""From the store to tidy tables: `results.csv` (every number) and `runs.csv` (everything that happened)."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..engine.costs import Summary
from ..store.damage import unless_damaged
from ..store.files import Lock, write_atomically
from ..store.identity import SCHEMA, canonical
from ..store.journal import Journal
from ..store.sealed import checksum_of, read_json, read_unsealed, write_json
from ..store.store import CellStore
from ..store.survey import cells
from ..types import ResultRow

COLUMNS = [
    *("schema", "run_id", "cell_key", "metric_key", "model", "weights", "dataset", "reference", "split", "subset"),
    *("protocol", "method", "kind", "metric", "variant", "stat", "x", "value", "unit", "higher_is_better", "n"),
    *("stderr", "ci_low", "ci_high", "ci_method", "seed", "precision", "status", "x_label", "headline", "settings"),
]
ORDER = [
    *("model", "dataset", "split", "protocol", "method", "metric", "variant", "subset", "stat", "x"),
    *("seed", "precision", "weights", "cell_key", "reference", "metric_key"),
]
TABLES, SUMS = ("results.csv", "runs.csv"), ".checksums.json"
LOST = "what it says of a run is lost (its results are not): delete it"  # of a damaged record
FAILED_ROW = asdict(ResultRow(variant="", stat="", value=None, n=0, headline=False))
FLOATS = ["x", "value", "stderr", "ci_low", "ci_high"]


def joined(samples: pd.DataFrame, columns: pd.DataFrame) -> pd.DataFrame:
    """A metric's columns beside who each pair is; RuntimeError if either side lacks pairs of the other."""
    table = samples.merge(columns, on=["position", "sample_id"], how="inner", validate="one_to_one")
    if not len(table) == len(samples) == len(columns):
        raise RuntimeError(
            f"{len(samples)} pairs in the samples, {len(columns)} in the metric, {len(table)} in both: the store is "
            "damaged; compute anew with cache=refresh"
        )
    return table.drop(columns="position")


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
    rows = [row for path in sorted(runs.glob("*/*.json")) for row in _run_rows(path)]
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
    methods = record.pop("methods")
    name = f"{path.parent.name}.{path.stem}"
    yield from ({"record": name, **record, "method": method, **cost} for method, cost in methods.items())


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Atomic CSV."""
    write_atomically(path, frame.to_csv(index=False).encode())


@contextmanager
def _tables_in_hand(results: Path) -> Iterator[None]:
    lock = Lock(results / "tidy" / ".collect.lock")
    lock.wait()
    try:
        yield
    finally:
        lock.release()


def collect(results: Path) -> pd.DataFrame:
    """Rebuild `tidy/results.csv` and `tidy/runs.csv` below `results` from all that is stored; returns the former."""
    with _tables_in_hand(results):
        journals = [Journal(results / name) for name in ("store", "runs")]
        noted = [journal.take() for journal in journals]
        frame = results_table(cells(results / "store"))
        write_csv(frame, results / "tidy" / "results.csv")
        write_csv(runs_table(results / "runs"), results / "tidy" / "runs.csv")
        _remember(results / "tidy")
        for journal, names in zip(journals, noted, strict=True):
            journal.settle(names)
    return frame


def update(results: Path) -> None:
    """Bring the tidy tables up to date: only cells whose rows changed, and new records, are read.

    The same bytes as `collect` leaves, at a cost that does not grow with the store.
    """
    with _tables_in_hand(results):
        if is_known := _are_as_written(results / "tidy") and _are_ours(results / "tidy"):
            _update_results(results)
            _update_runs(results)
            _remember(results / "tidy")
    if not is_known:
        collect(results)


def _remember(tidy: Path) -> None:
    """What the tables are now: a byte that changes without us would stay for ever."""
    write_json(tidy / SUMS, {name: checksum_of(tidy / name) for name in TABLES})


def _are_as_written(tidy: Path) -> bool:
    """Whether the tables are what we have left, and no kill, hand or disk has changed one."""
    kept = unless_damaged(partial(read_json, tidy / SUMS)) if (tidy / SUMS).is_file() else None
    return kept == {name: checksum_of(tidy / name) for name in TABLES}


def _are_ours(tidy: Path) -> bool:
    """Whether the tables have this version's columns."""
    known, runs = (_as_text(tidy / name) for name in TABLES)
    return known is not None and runs is not None and list(known) == COLUMNS and "record" in runs


def _update_results(results: Path) -> None:
    path, store = results / "tidy" / "results.csv", results / "store"
    journal = Journal(store)
    noted = journal.take()
    known, present = _as_text(path), [cell for key in sorted(noted) if (cell := CellStore(store, key)).exists()]
    assert known is not None
    made = _through_text(results_table(present))
    write_csv(_ordered(pd.concat([known[~known["cell_key"].isin(noted)], made])), path)
    journal.settle(noted)


def _update_runs(results: Path) -> None:
    path = results / "tidy" / "runs.csv"
    journal = Journal(results / "runs")
    noted = journal.take()
    known = _as_text(path)
    assert known is not None
    rows = [row for name in noted if (record := _record_path(results, name)).exists() for row in _run_rows(record)]
    if rows:
        others = known[~known["record"].isin(noted)]
        write_csv(pd.concat([others, _through_text(pd.DataFrame(rows))]).sort_values("record", kind="stable"), path)
    journal.settle(noted)


def _as_text(path: Path) -> pd.DataFrame | None:
    """A CSV with every field as it stands there: what is written back is what was read."""
    if not path.is_file() or not path.stat().st_size > 1:
        return None
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def _through_text(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(frame.to_csv(index=False)), dtype=str, keep_default_na=False)
