"""Columns of one shard as the bytes of a parquet file, and back."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .sealed import CHECKSUM, SEAL


def packed(columns: dict[str, np.ndarray]) -> bytes:
    """A table with room for its checksum; columns [n,K] become lists of one length."""
    arrays = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(c.ravel()), c.shape[1]) if c.ndim > 1 else pa.array(c)
        for name, c in columns.items()
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(arrays).replace_schema_metadata({CHECKSUM: SEAL}), sink)
    made: bytes = sink.getvalue().to_pybytes()
    return made


def unpacked(data: bytes) -> pa.Table:
    """The table of `packed`."""
    return pq.read_table(pa.BufferReader(data)).replace_schema_metadata(None)


def to_numpy(column: pa.ChunkedArray) -> np.ndarray:
    """A column [n], or a column of lists [n,K]."""
    if not pa.types.is_fixed_size_list(column.type):
        return column.to_numpy()
    return column.combine_chunks().flatten().to_numpy().reshape(len(column), column.type.list_size)
