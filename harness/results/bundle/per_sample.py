"""The store's per-sample tables as files that any reader of parquet opens."""

import io
from collections.abc import Iterator
from pathlib import Path

from ...store.store import SAMPLES, Group, Shard
from ...store.survey import cells
from .hiding import hidden

ENDING = "parquet"


def sample_files(store: Path) -> Iterator[tuple[str, bytes]]:
    """`samples/<cell_key>/<metric>-<metric_key>.parquet` of each metric of each cell whose images are all there.

    `samples/<cell_key>/samples.parquet` says who the samples are; the keys are those of results.csv.
    """
    for cell in cells(store):
        for key in (SAMPLES, *cell.groups()):
            group = cell.group(key)
            if stop := _stop(group):
                name = SAMPLES if key == SAMPLES else f"{group.about()['name']}-{key}"
                yield f"samples/{cell.key}/{name}.{ENDING}", _packed(group, stop)


def _stop(group: Group) -> int:
    """Up to which image its columns are there; 0 where some are missing before."""
    stop = max((shard.stop for shard in group.shards()), default=0)
    return 0 if group.missing([Shard(0, stop)]) else stop


def _packed(group: Group, stop: int) -> bytes:
    buffer = io.BytesIO()
    hidden(group.read(stop)).to_parquet(buffer, index=False)
    return buffer.getvalue()
