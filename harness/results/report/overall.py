"""The report's part over all places: mean ranks over models, sets and seeds, as `harness rank` gives them."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from ..ranking.blocks import blocks
from ..ranking.significance import ranking
from ..ranking.told import counted, said
from .charts import mean_ranks


def overall(results: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """What the template shows of each ranking of two blocks or more."""
    for each in blocks(results):
        if len(each.losses) > 1:
            made = ranking(each)
            ranks = {str(name): float(rank) for name, rank in made.ranks.items()}
            yield {
                "title": each.title,
                "chart": mean_ranks(ranks, made.cliques),
                "said": [f"mean ranks over {counted(made)}", *said(made)],
            }
