"""Relevance and attention methods on ViT-B/16 at 224 px: floor, ours."""

from collections.abc import Iterator

import pandas as pd

from bench.floors import transformers
from bench.floors.subject import BATCH, Subject
from bench.timing import race


def tasks() -> Iterator[pd.DataFrame]:
    """One race a method."""
    subject = Subject.of("vit_b_16", "encoder.ln", BATCH)
    for method, runs in transformers.contests(subject).items():
        yield race(f"{method} vit_b_16 batch {BATCH}", runs)
