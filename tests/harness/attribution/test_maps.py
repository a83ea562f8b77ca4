"""Maps as files: the numbers are those that metrics read, names are safe, and nothing is left out unsaid."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from assay.harness.attribution.cell import AttributionCell
from assay.harness.attribution.gallery import RING, draw_gallery, is_hit
from assay.harness.attribution.maps import export_maps, file_name
from assay.harness.attribution.plan import build_job
from assay.harness.config import ConfigError
from assay.harness.engine.job import Job
from assay.harness.engine.measure import share
from assay.harness.engine.samples import Checked
from assay.harness.forward import ForwardPass
from assay.harness.frames import resize_to_frames
from assay.harness.heads import Targets
from assay.harness.overrides import compose_config
from assay.harness.seeds import SampleRng
from assay.harness.types import Attribution, Batch, FramedMaps, Needs, Sample
from PIL import Image


def job_of(*overrides: str) -> Job:
    """A built job of eight images that writes no store."""
    torch.set_num_threads(1)
    base = ["limit=8", "compute.device=cpu", "method=[gradcam,random]", "dry_run=true"]
    return build_job(compose_config([*base, *overrides]), Path("nowhere"))


def read(path: Path) -> dict[str, np.ndarray]:
    """An archive's arrays, without pickles."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file}


def test_numbers_are_those_of_the_cells(tmp_path: Path) -> None:
    """Every class of the first five images under both methods: `values` as `AttributionCell.attribute` gives them for
    the same image (smoothing included), `map` as `prepare` does, exactly; and who they are."""
    job = job_of("+protocol.smooth.gradcam=0.05")
    made = export_maps(job, tmp_path, 5, ["npz"])
    expected = 0
    for index in range(5):
        batch, forward = share(job, [job.images.dataset[index]], job.cells, 16)
        for cell in job.cells:
            assert isinstance(cell, AttributionCell)
            native, framed = cell.attribute(batch, forward), cell.prepare(batch, forward)
            assert isinstance(framed, FramedMaps)
            for row, (sample, label) in enumerate(batch.pairs):
                arrays = read(tmp_path / cell.name / f"{sample.id}%23{label}.npz")
                assert np.array_equal(arrays["values"], native.values[row].numpy())
                assert np.array_equal(arrays["map"], framed.maps[row].numpy())
                assert arrays["values"].dtype == arrays["map"].dtype == np.float32
                assert np.array_equal(arrays["boxes"], sample.boxes[label].numpy())
                assert arrays["frame"].tolist() == [64, 64]
                named = [str(arrays[name]) for name in ("sample_id", "image_id", "label", "method", "model", "dataset")]
                assert named == [f"{sample.id}#{label}", sample.id, str(label), cell.name, "scenes_vgg", "scenes"]
                expected += 1
    assert (made.images, made.maps, made.failures) == (5, expected, {})
    assert len(list(tmp_path.rglob("*.*"))) == expected


class Wide:
    """A data set of one image with a name that is a path, in a frame of 30x50, and one without a class."""

    classes: Sequence[str] = ("thing", "other")
    split = "test"
    samples: ClassVar[list[Sample]] = [
        Sample("nothing", torch.zeros(3, 64, 64), (), (30, 50)),
        Sample("../n01/a b#1", torch.rand(3, 64, 64), (0, 1), (30, 50), {0: torch.tensor([[1.0, 2, 3, 4]])}),
    ]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def fingerprint(self) -> str:
        """One."""
        return "wide"


def over(job: Job, stop: int) -> Job:
    """The same job over the first images of `Wide`."""
    return replace(job, images=replace(job.images, dataset=Checked("wide", Wide()), order=np.arange(stop), stop=stop))


def test_frames_pictures_and_names(tmp_path: Path) -> None:
    """A name with a path and a # becomes one file in its folder, from which it can be read back; the picture and `map`
    have the frame's size, `map` is `values` resized; a class without boxes has none; an image without a class is passed
    over and not counted."""
    job = over(job_of("method=[gradcam]"), 2)
    assert export_maps(job, tmp_path / "maps", 2) == (1, 2, {})
    folder = tmp_path / "maps" / "gradcam"
    files = sorted(path.name for path in folder.iterdir())
    assert files == [f"..%2Fn01%2Fa%20b%231%23{label}.{kind}" for label in (0, 1) for kind in ("npz", "png")]
    assert unquote(files[0]) == "../n01/a b#1#0.npz"
    assert [path.name for path in tmp_path.iterdir()] == ["maps"]
    arrays = read(folder / files[0])
    assert (arrays["values"].shape, arrays["map"].shape) == ((8, 8), (30, 50))
    resized = resize_to_frames(torch.from_numpy(arrays["values"])[None], torch.tensor([[30, 50]]))
    assert np.array_equal(arrays["map"], resized[0].numpy())
    assert arrays["boxes"].tolist() == [[1, 2, 3, 4]]
    assert read(folder / files[2])["boxes"].shape == (0, 4)
    with Image.open(folder / files[1]) as picture:
        assert (picture.size, picture.mode) == ((50, 30), "RGB")


def test_long_names_stay_apart() -> None:
    """Beyond what file systems take, a digest of the whole name ends it."""
    one, other = (file_name("x" * 300 + end) for end in "ab")
    assert one != other
    assert max(len(one), len(other)) < 250


@dataclass(frozen=True)
class FailsLater:
    """Explains one image, then raises."""

    seen: list[int]
    VERSION: ClassVar[int] = 1

    def needs(self) -> Needs:
        """Nothing."""
        return Needs()

    def attribute(self, forward: ForwardPass, targets: Targets, rng: SampleRng) -> Attribution:
        """Zeros, once."""
        self.seen.append(1)
        if len(self.seen) > 1:
            raise RuntimeError("no more")
        return Attribution(torch.zeros(len(targets.image), 2, 2))


def test_a_failing_method_is_said_and_stops_no_other(tmp_path: Path) -> None:
    """Its first maps stay, the reason is returned, the other method's maps are complete."""
    job = job_of()
    failing = replace(job.cells[0], attributor=FailsLater([]))  # type: ignore[call-arg]
    made = export_maps(replace(job, cells=[failing, job.cells[1]]), tmp_path, 3, ["png"])
    assert made.failures == {"gradcam": "RuntimeError: no more"}
    pairs = [len(job.images.dataset[index].targets) for index in range(3)]
    assert len(list((tmp_path / "gradcam").iterdir())) == pairs[0]
    assert len(list((tmp_path / "random").iterdir())) == sum(pairs)
    assert made.maps == pairs[0] + sum(pairs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"formats": ["npy"]}, "'npy' is not a format of maps. Did you mean npz"),
        ({"formats": []}, "no format: --format npz,png"),
        ({"count": 0}, "--images 0: give at least 1"),
    ],
)
def test_what_cannot_be_written_is_named(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Before anything is computed."""
    with pytest.raises(ConfigError, match=message):
        export_maps(job_of(), tmp_path, **({"count": 1} | arguments))


def test_no_class_to_explain_is_an_error(tmp_path: Path) -> None:
    """As for a gallery."""
    job = over(job_of(), 1)
    with pytest.raises(ConfigError, match="no image has a class to be explained"):
        export_maps(job, tmp_path, 1)


def test_the_gallery_still_draws(tmp_path: Path) -> None:
    """It shares the maps' pictures: a PNG of three images, the first class of each."""
    assert draw_gallery(job_of(), tmp_path / "gallery.png", 3) == (3, {})
    with Image.open(tmp_path / "gallery.png") as picture:
        assert picture.width > 300


def test_a_gallery_has_a_row_for_each_class(tmp_path: Path) -> None:
    """Of two images with at most two classes each: as many rows as there are such pairs."""
    job, heights = job_of(), []
    for classes in (1, 2):
        assert draw_gallery(job, tmp_path / "gallery.png", 2, classes) == (2, {})
        with Image.open(tmp_path / "gallery.png") as picture:
            heights.append(picture.height)
    pairs = sum(min(2, len(job.images.dataset[index].targets)) for index in (0, 1))
    assert pairs == 3 and heights[1] == pytest.approx(heights[0] * pairs / 2, rel=0.02)


@pytest.mark.parametrize(
    ("boxes", "colour"), [({0: [[0, 0, 4, 4]]}, "lime"), ({0: [[20, 20, 30, 30]]}, "black"), ({}, "white")]
)
def test_a_circle_says_hit_or_miss_where_there_is_a_box(boxes: dict[int, list[list[float]]], colour: str) -> None:
    """The arg-max at the corner: in the box, more than the scenes' two pixels away, and without any box neither."""
    shown = {label: torch.tensor(rows) for label, rows in boxes.items()}
    batch = Batch.of([Sample("a", torch.zeros(3, 64, 64), (0,), (64, 64), shown)])
    values = torch.zeros(1, 64, 64)
    values[0, 1, 1] = 1
    assert RING[is_hit(job_of(), batch, FramedMaps.of(Attribution(values), batch))] == colour
