"""From the store to tidy tables: `results.csv` (every number) and `runs.csv` (everything that happened)."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from ..store import store
from ..store.files import Lock, read_json, write_atomically
from ..store.identity import SCHEMA, canonical
from ..store.store import CellStore
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
FAILED_ROW = asdict(ResultRow(variant="", stat="", value=None, n=0, headline=False))
UNSAID = {"x_label": "", "headline": True}  # by rows of a store that is older than these fields


def joined(samples: pd.DataFrame, columns: pd.DataFrame) -> pd.DataFrame:
    """A metric's columns beside who each pair is; RuntimeError if either side lacks pairs of the other."""
    table = samples.merge(columns, on=["position", "sample_id"], how="inner", validate="one_to_one")
    if not len(table) == len(samples) == len(columns):
        raise RuntimeError(
            f"{len(samples)} pairs in the samples, {len(columns)} in the metric, {len(table)} in both: the store is "
            "damaged; compute anew with cache=refresh"
        )
    return table.drop(columns="position")


def cell_rows(cell: CellStore) -> Iterator[dict[str, Any]]:
    """Result rows of every finished or failed metric of one cell."""
    about = cell.cell()
    labels = {k: v for k, v in about["labels"].items() if k in COLUMNS}
    labels["settings"] = _settings(about["identity"])
    for key in cell.groups():
        group = cell.group(key)
        metric = read_json(group.path / "group.json")
        shared = {"schema": SCHEMA, "cell_key": cell.key, "metric_key": key, "metric": metric["name"], **labels}
        shared |= {"reference": metric.get("reference", ""), "kind": metric.get("kind", labels["kind"])}
        for path in sorted(group.path.glob("DONE-*.json")):
            done = read_json(path)
            for row in done["rows"]:
                yield {**shared, "run_id": done["run_id"], "split": done["split"], **UNSAID, **row}
        if group.failed.exists():
            failure = read_json(group.failed)
            status = f"failed:{failure['why'].splitlines()[0]}"
            yield {**shared, "run_id": "", "split": "", **FAILED_ROW, "status": status}


def _settings(identity: dict[str, Any]) -> str:
    """The conventions of method and protocol, as JSON: what tells two rows of one method apart."""
    method = {k: v for k, v in identity["method"].items() if not k.startswith("_")}
    made = {"method": method, "protocol": identity["protocol"]}
    if training := identity.get("training"):
        made["training"] = {"images": training["images"], "data": training["data"]["dataset"]["fingerprint"]}
    return canonical(made)


def results_table(cells: list[CellStore]) -> pd.DataFrame:
    """The tidy result table of some cells, in a fixed order."""
    frame = pd.DataFrame([row for cell in cells for row in cell_rows(cell)], columns=COLUMNS)
    return frame.sort_values(ORDER, kind="stable", na_position="first").reset_index(drop=True)


def runs_table(runs: Path) -> pd.DataFrame:
    """One row for each method of each invocation: host, versions, overrides, wall time, passes."""
    rows = []
    for path in sorted(runs.glob("*/*.json")):
        record = read_json(path)
        methods = record.pop("methods")
        rows += [{**record, "method": name, **cost} for name, cost in methods.items()]
    return pd.DataFrame(rows)


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Atomic CSV."""
    write_atomically(path, frame.to_csv(index=False).encode())


def collect(results: Path) -> pd.DataFrame:
    """Rebuild `tidy/results.csv` and `tidy/runs.csv` below `results`; returns the former."""
    lock = Lock(results / "tidy" / ".collect.lock")
    lock.wait()
    try:
        frame = results_table(store.cells(results / "store"))
        write_csv(frame, results / "tidy" / "results.csv")
        write_csv(runs_table(results / "runs"), results / "tidy" / "runs.csv")
    finally:
        lock.release()
    return frame
