"""Fits of any size of training set in bounded memory: every detector that reads a stream of parts or the bank.

The fits run in a process of their own, whose peak memory is read from the kernel. This file is also that script:
`python tests/methods/ood/test_large_fit.py IMAGES FEATURES CLASSES` prints what it took. Marked slow: many classes of
many features, whose matrices the allocator can fail to reuse (half a minute), and the full size of ImageNet, 1,281,167
images x 2048 features x 1000 classes (half an hour on a core).
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
PART = 4096
CHECKED = 3 * PART + 100  # images on which the streamed fit is compared with a fit in one part
LIMIT_MB = 2048


def measure(images: int, features: int, classes: int) -> dict[str, Any]:
    """Fit them on a stream; peak memory, wall times, and the largest difference from fits in one part."""
    import torch
    from assay.harness.detection import Features, LinearHead
    from assay.harness.training import FittedDetector, TrainingSet
    from assay.methods.ood.dice import DICE
    from assay.methods.ood.fdbd import FDBD
    from assay.methods.ood.klm import KLMatching
    from assay.methods.ood.knn import KNN
    from assay.methods.ood.line import LINe
    from assay.methods.ood.mahalanobis import Mahalanobis
    from assay.methods.ood.nci import NCI
    from assay.methods.ood.nnguide import NNGuide
    from assay.methods.ood.rmd import RMD
    from assay.methods.ood.she import SHE
    from assay.methods.ood.vim import Residual, ViM

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(classes, features, generator=generator)
    head = LinearHead(means / features**0.5, torch.zeros(classes))  # most images are classified right

    def part(start: int, count: int) -> Features:
        """Rows from `start` on, the same in every reading."""
        seeded = torch.Generator().manual_seed(start)
        labels = torch.arange(start, start + count) % classes
        penultimate = torch.randn(count, features, generator=seeded).add_(means[labels]).relu_()
        return Features(head(penultimate), labels, penultimate, head=head)

    def stream(total: int) -> TrainingSet:
        def parts() -> Iterator[Features]:
            for start in range(0, total, PART):
                yield part(start, min(PART, total - start))

        return TrainingSet(parts, total)

    detectors: list[FittedDetector] = [
        *(DICE(70), LINe(10, 10, 0.8), Mahalanobis(), ViM(), Residual(), RMD(), FDBD(), NCI(), SHE(), KLMatching()),
        *(KNN(), NNGuide()),  # of the bank
    ]
    wall_s, training, began = {}, stream(images), time.perf_counter()
    training.moments()
    wall_s["moments"] = time.perf_counter() - began
    for detector in detectors:
        began = time.perf_counter()
        detector.fit(training)
        wall_s[type(detector).__name__] = time.perf_counter() - began
    peak_mb = _peak_mb()

    checked = min(images, CHECKED)
    whole = [part(start, min(PART, checked - start)) for start in range(0, checked, PART)]
    joined = Features(
        torch.cat([p.logits for p in whole]),
        torch.cat([p.labels for p in whole]),
        torch.cat([p.tap() for p in whole]),
        head=head,
    )
    one = TrainingSet(lambda: iter([joined]), checked)
    test, differences = part(10**9, 64), {}
    for detector in detectors:
        ours, expected = (detector.score(test, detector.fit(each)).double() for each in (stream(checked), one))
        differences[type(detector).__name__] = float(((ours - expected).abs() / expected.abs()).max())
    return {"peak_mb": peak_mb, "wall_s": wall_s, "differences": differences}


def _peak_mb() -> float:
    """Of this process alone: getrusage would inherit what its parent had used."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize(
    ("images", "features", "classes"),
    [
        (20_000, 256, 50),
        pytest.param(2_000, 1024, 800, marks=pytest.mark.slow),
        pytest.param(1_281_167, 2048, 1000, marks=pytest.mark.slow),
    ],
    ids=["small", "wide", "imagenet"],
)
def test_memory_is_bounded_and_the_fit_that_of_one_part(images: int, features: int, classes: int) -> None:
    """Peak memory below 2 GiB, torch included; scores of 64 images after a streamed fit of 12,388 images equal those
    after a fit of the same in one part, relative 1e-6."""
    command = [sys.executable, __file__, str(images), str(features), str(classes)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    found = json.loads(done.stdout)
    assert found["peak_mb"] < LIMIT_MB
    assert max(found["differences"].values()) < 1e-6


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    print(json.dumps(measure(*map(int, sys.argv[1:])), indent=1))
