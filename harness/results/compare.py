"""Two methods on the same samples: paired differences with intervals."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from .. import stats
from ..config import ConfigError, suggest
from ..store.store import SAMPLES, CellStore, cells, read_json
from .tidy import joined

SHARED = ("model", "dataset", "protocol", "seed", "precision")


def compare(root: Path, first: str, second: str) -> pd.DataFrame:
    """Mean of (first - second) for each paired column, on every (model, dataset, ...) that has both.

    Args:
        root: the store.
        first, second: method names, or beginnings of cell keys (to tell two settings of one method apart).

    Returns:
        model, dataset, split, metric, column, difference, ci_low, ci_high, n; intervals resample images.
    """
    left, right = _find(root, first), _find(root, second)
    rows = [row for a in left for b in right if _comparable(a, b) for row in _differences(a, b)]
    if not rows:
        raise ConfigError(f"{first} and {second} have no finished metric on the same model, data set and protocol")
    return pd.DataFrame(rows)


def _find(root: Path, name: str) -> list[CellStore]:
    known = cells(root)
    found = [c for c in known if c.cell()["labels"]["method"] == name or (len(name) >= 6 and c.key.startswith(name))]
    if not found:
        raise ConfigError(suggest(name, {c.cell()["labels"]["method"] for c in known}, "method with results"))
    return found


def _comparable(a: CellStore, b: CellStore) -> bool:
    one, other = a.cell(), b.cell()
    same_names = all(one["labels"][key] == other["labels"][key] for key in SHARED)
    same_data = all(one["identity"][key] == other["identity"][key] for key in ("model", "dataset"))
    return a.key != b.key and same_names and same_data


def _differences(a: CellStore, b: CellStore) -> Iterator[dict[str, Any]]:
    labels = a.cell()["labels"]
    for key in sorted(set(a.groups()) & set(b.groups())):
        about = read_json(a.group(key).path / "group.json")
        for stop in _common_stops(a, b, key):
            table = _joined(a, b, key, stop)
            split = read_json(a.group(key).done(stop))["split"]
            for column in about["paired"]:
                difference = table[f"{column}_a"].astype(float) - table[f"{column}_b"].astype(float)
                estimate = stats.mean(difference.to_numpy(), table["image_id"])
                if not estimate.n:  # a column that no pair of these samples has
                    continue
                yield {
                    "model": labels["model"],
                    "dataset": labels["dataset"],
                    "split": split,
                    "protocol": labels["protocol"],
                    "metric": about["name"],
                    "column": column,
                    "difference": estimate.value,
                    "ci_low": estimate.ci_low,
                    "ci_high": estimate.ci_high,
                    "n": estimate.n,
                }


def _common_stops(a: CellStore, b: CellStore, key: str) -> list[int]:
    stops = [{int(path.stem.split("-")[1]) for path in c.group(key).path.glob("DONE-*.json")} for c in (a, b)]
    return sorted(stops[0] & stops[1])


def _joined(a: CellStore, b: CellStore, key: str, stop: int) -> pd.DataFrame:
    left, right = (joined(c.group(SAMPLES).read(stop), c.group(key).read(stop)) for c in (a, b))
    return left.merge(right.drop(columns="image_id"), on="sample_id", suffixes=("_a", "_b"))
