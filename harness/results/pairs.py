"""Rows of pairs: what a metric measured beside who each pair is."""

import pandas as pd

KEYS = ["position", "sample_id"]  # of a pair's row in every table of its cell


def joined(samples: pd.DataFrame, columns: pd.DataFrame) -> pd.DataFrame:
    """A metric's columns beside who each pair is.

    Raises:
        RuntimeError: either side lacks pairs of the other, or both have a column of one name.
    """
    if met := samples.columns.intersection(columns.columns).difference(KEYS).tolist():
        raise RuntimeError(f"the metric measures {', '.join(met)}, which the samples have already: rename its columns")
    are_alike = all(samples[key].equals(columns[key]) for key in KEYS)  # as both are written: no need of a merge
    table = samples.join(columns.drop(columns=KEYS)) if are_alike else samples.merge(columns, on=KEYS, validate="1:1")
    if not len(table) == len(samples) == len(columns):
        raise RuntimeError(
            f"{len(samples)} pairs in the samples, {len(columns)} in the metric, {len(table)} in both: the store is "
            "damaged; compute anew with cache=refresh"
        )
    return table.drop(columns="position")
