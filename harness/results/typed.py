"""`results.parquet`: the rows of results.csv with the types of its columns, for programs.

There a number is a number, a missing one is null, and a text is never missing: what is called `NA` stays that.
"""

from collections.abc import Iterable

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

TYPES = {
    **dict.fromkeys(("schema", "n", "seed"), pa.int64()),
    **dict.fromkeys(("x", "value", "stderr", "ci_low", "ci_high"), pa.float64()),
    **dict.fromkeys(("higher_is_better", "headline"), pa.bool_()),
}  # other columns are texts
FLOATS = [name for name, kind in TYPES.items() if kind == pa.float64()]


def packed(text: pd.DataFrame, columns: Iterable[str]) -> bytes:
    """A tidy table whose fields are the texts of results.csv, as the bytes of a parquet file; the same for the same."""
    arrays = {name: _typed(text[name], TYPES.get(name, pa.string())) for name in columns}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(arrays), sink)
    made: bytes = sink.getvalue().to_pybytes()
    return made


def _typed(column: pd.Series, kind: pa.DataType) -> pa.Array:
    texts = pa.array(column).cast(pa.string())
    return texts if kind == pa.string() else pc.if_else(pc.equal(texts, ""), None, texts).cast(kind)
