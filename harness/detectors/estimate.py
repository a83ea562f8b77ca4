"""How long a pass over images will take, timed on a few."""

import time

from ..engine.measure import share
from .plan import TEST, Detection

PROBE_IMAGES = 2


def forward_seconds(detection: Detection) -> float:
    """Seconds an image of one forward pass, timed on the first images of the test set."""
    images, job = detection.sets[TEST].images, detection.job(TEST, [])
    samples = [images.dataset[int(index)] for index in images.order[:PROBE_IMAGES]]
    features = detection.sets[TEST].features
    share(job, samples, [features], len(samples))  # a network's first pass may take hundreds of times as long
    start = time.perf_counter()
    share(job, samples, [features], len(samples))
    return (time.perf_counter() - start) / len(samples)
