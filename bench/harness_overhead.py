"""The whole harness against a bare loop: Grad-CAM and all localization metrics, ResNet-50, one thread."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from assay.harness.attribution.plan import build_job
from assay.harness.attribution.run import AttributionRun
from assay.harness.engine.determinism import make_deterministic
from assay.harness.engine.evaluate import evaluate
from assay.harness.engine.job import Job
from assay.harness.networks.loading import IMAGENET_MEAN, IMAGENET_STD
from assay.harness.overrides import compose_config
from PIL import Image
from torch import Tensor, nn

from bench.timing import race

IMAGES, BATCH, SIDE, ROUNDS = 64, 16, 224, 5
SIZE = (500, 375)  # of most ImageNet photographs, (width, height)
WNIDS = [f"n{number:08d}" for number in range(1000)]
METRICS = (
    "pointing_game",
    "energy_pointing_game",
    "positive_ratio",
    "outside_inside",
    "pixel_accuracy",
    "miou",
    "mean_ap",
)
OVERRIDES = (
    *("model=resnet50", "model.weights=null", "dataset=imagenet", "method=[gradcam]", f"metric=[{','.join(METRICS)}]"),
    *("metric.pixel_accuracy.region=box", "metric.miou.region=box", "metric.mean_ap.region=box"),  # there are no masks
    *("compute.device=cpu", "compute.processes=1", "compute.threads=1", f"compute.batch_size={BATCH}"),
)


def tasks() -> Iterator[pd.DataFrame]:
    """One race: a bare loop that loads, forwards and back-propagates the head; `evaluate` and the summaries.

    Both under the settings of a run (one thread, deterministic kernels).
    """
    threads = torch.get_num_threads()
    make_deterministic(1)
    try:
        with tempfile.TemporaryDirectory(prefix="assay-bench-") as folder:
            files = made_up_photographs(Path(folder))
            config = compose_config([*OVERRIDES, f"dataset.root={folder}", f"results={folder}/results"])
            job = build_job(config, Path(folder) / "results" / "store")
            yield race(
                f"gradcam + {len(METRICS)} metrics, resnet50, {IMAGES} images",
                {"floor: load + F + head B": lambda: bare_loop(job.network.module, files), "assay": lambda: whole(job)},
                ROUNDS,
            )
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)


def whole(job: Job) -> None:
    """Everything from an empty store to the rows of every metric."""
    for cell in job.cells:
        for name in cell.groups:
            cell.group(name).clear(job.images.stop)
    outcome = evaluate(job)
    assert not outcome.failures, outcome.failures
    AttributionRun(job).summarise()


def bare_loop(module: nn.Module, files: Sequence[Path]) -> None:
    """The same images in the same batches: read, resize, normalise, one forward pass, the head's gradient."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    for start in range(0, len(files), BATCH):
        images = torch.stack([read(file) for file in files[start : start + BATCH]])
        kept: list[Tensor] = []
        handle = module.get_submodule("layer4").register_forward_hook(lambda _m, _i, out, kept=kept: kept.append(out))
        with torch.no_grad():
            module((images - mean) / std)
        handle.remove()
        activation = kept[0].requires_grad_()
        logits = module.fc(module.avgpool(activation).flatten(1))  # type: ignore[operator]
        torch.autograd.grad(logits[:, 0].sum(), activation)


def read(file: Path) -> Tensor:
    """An image [3,SIDE,SIDE] in [0,1]."""
    with Image.open(file) as image:
        pixels = np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32)
    return torch.from_numpy(pixels / 255).permute(2, 0, 1)


def made_up_photographs(root: Path) -> list[Path]:
    """JPEGs of photographs' size, each with one or two boxes, in ImageNet's layout."""
    generator = np.random.default_rng(0)
    (root / "wnids.txt").write_text("\n".join(WNIDS))
    (root / "bbox" / "val").mkdir(parents=True)
    files = []
    for number in range(IMAGES):
        wnid = WNIDS[number % len(WNIDS)]
        files.append(root / "val" / wnid / f"{number:04d}.JPEG")
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(generator.integers(0, 256, (48, 64, 3), dtype=np.uint8))
        coarse.resize(SIZE, Image.Resampling.BICUBIC).save(files[-1], quality=90)
        boxes = "".join(_box(wnid, generator) for _ in range(1 + number % 2))
        (root / "bbox" / "val" / f"{number:04d}.xml").write_text(f"<annotation>{boxes}</annotation>")
    return files


def _box(wnid: str, generator: np.random.Generator) -> str:
    (x0, x1), (y0, y1) = (np.sort(generator.choice(side, 2, replace=False)) for side in SIZE)
    corners = f"<xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
    return f"<object><name>{wnid}</name><bndbox>{corners}</bndbox></object>"
