"""Relevance and attention methods on ViT-B/16 at 224 px: floor, ours, peers that are there; one thread, CPU seconds."""

import time
from collections.abc import Iterator

import pandas as pd
import torch

from bench.floors import transformers
from bench.floors.subject import BATCH, Subject
from bench.timing import ROUNDS, race
from bench.transformer_peers import peer_of


def tasks(batch: int = BATCH, rounds: int = ROUNDS) -> Iterator[pd.DataFrame]:
    """One race a method."""
    subject = Subject.of("vit_b_16", "encoder.layers.encoder_layer_11.ln_1", batch)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the peers' parts that are not torch's have one
    try:
        for method, runs in transformers.contests(subject).items():
            peer, run = peer_of(method, subject)
            task = f"{method} vit_b_16 batch {batch}, 1 thread, CPU s"
            found = race(task, runs | ({} if run is None else {peer: run}), rounds, clock=time.process_time)
            yield found if run is not None or not peer else pd.concat([found, _absent(task, peer)])
    finally:
        torch.set_num_threads(threads)


def _absent(task: str, peer: str) -> pd.DataFrame:
    """A row without figures."""
    return pd.DataFrame([{"task": task, "contestant": peer}])
