"""Transforms with their frames, and files that are no images."""

import hashlib
import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from assay.datasets.decoding import DataError, decode_image, read_image
from assay.datasets.images import LabelledFiles, Transform, shorter_side, to_tensor
from assay.datasets.listing import READING, class_indices, files_fingerprint, image_files, listing, require_files
from assay.harness.frames import rasterise_boxes
from PIL import Image
from torch import Tensor


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("settings", "shape", "frame"),
    [
        ({"mode": "none"}, (30, 40), (30, 40)),
        ({"mode": "squash", "size": 16}, (16, 16), (30, 40)),
        ({"mode": "squash", "size": 16, "frame": "input"}, (16, 16), (16, 16)),
        ({"mode": "shorter", "size": 15}, (15, 20), (30, 40)),
        ({"mode": "shorter", "size": 15, "frame": "input"}, (15, 20), (15, 20)),
        ({"mode": "crop", "size": 12, "resize": 15}, (12, 12), (12, 12)),
    ],
)
def test_shapes_and_frames(settings: dict, shape: tuple[int, int], frame: tuple[int, int]) -> None:
    framed = Transform.of(settings)(picture(40, 30))
    assert tuple(framed.image.shape) == (3, *shape)
    assert framed.size0 == frame
    assert tuple(framed.mask(torch.zeros(30, 40, dtype=torch.bool)).shape) == frame


def test_mode_none_keeps_every_pixel() -> None:
    image = picture(7, 5)
    framed = Transform("none")(image)
    assert torch.equal((framed.image * 255).round().byte().permute(1, 2, 0), torch.from_numpy(np.array(image)))


@pytest.mark.parametrize(
    "settings", [{"mode": "crop", "size": 64, "resize": 80}, {"mode": "squash", "size": 64, "frame": "input"}]
)
def test_masks_move_with_boxes(settings: dict) -> None:
    box = torch.tensor([[20.0, 30.0, 120.0, 100.0]])
    framed = Transform.of(settings)(picture(200, 160))
    mask = framed.mask(rasterise_boxes(box[None], torch.tensor([[160, 200]]))[0])
    moved = rasterise_boxes(framed.boxes(box)[None], torch.tensor([framed.size0]))[0]
    assert mask.sum() > 500
    assert (mask ^ moved).sum() <= 2 * 64  # at most one row and one column apart


def test_mask_is_pillows_nearest() -> None:
    pixels = np.random.default_rng(1).integers(0, 2, (37, 53), dtype=np.uint8)
    framed = Transform("squash", 16, frame="input")(picture(53, 37))
    expected = np.array(Image.fromarray(pixels).resize((16, 16), Image.Resampling.NEAREST))
    assert np.array_equal(framed.mask(torch.from_numpy(pixels)).numpy(), expected)


def test_crop_of_nothing_still_cuts_the_mask() -> None:
    framed = Transform("crop", 32, 32)(picture(32, 33))  # offset and scale are those of the identity
    assert tuple(framed.mask(torch.zeros(33, 32)).shape) == framed.size0 == (32, 32)


@pytest.mark.parametrize("settings", [{"mode": "stretch"}, {"frame": "screen"}, {"mode": "crop", "resize": 100}])
def test_settings_are_checked(settings: dict) -> None:
    with pytest.raises(ValueError, match=r"transform\."):
        Transform.of(settings)


def test_corrupt_and_truncated_files_are_named(tmp_path: Path) -> None:
    text, cut = tmp_path / "text.jpg", tmp_path / "cut.jpg"
    text.write_text("not a picture")
    picture(64, 64).save(cut)
    cut.write_bytes(cut.read_bytes()[:500])
    for path in (text, cut):
        with pytest.raises(DataError, match=path.name):
            read_image(path)


def test_missing_files_are_counted(tmp_path: Path) -> None:
    (tmp_path / "here").touch()
    require_files([tmp_path / "here"], "hint")
    with pytest.raises(DataError, match=r"a and 1 more of 3\. Get them there"):
        require_files([tmp_path / "a", tmp_path / "here", tmp_path / "b"], "Get them there")


def test_contents_enter_the_fingerprint(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("1")
    before = files_fingerprint(tmp_path, [path]), files_fingerprint(tmp_path, [], [path])
    path.write_text("2")
    after = files_fingerprint(tmp_path, [path]), files_fingerprint(tmp_path, [], [path])
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_how_files_are_read_enters_the_fingerprint(tmp_path: Path) -> None:
    """Results of pixels read otherwise are not taken for these; a pinned listing holds across such versions."""
    (tmp_path / "a.png").write_bytes(b"12345")
    by_hand = hashlib.sha256(b"a.png 5\n").hexdigest()[:20]
    assert listing(tmp_path, [tmp_path / "a.png"]) == by_hand
    expected = hashlib.sha256(f"{by_hand} {READING}".encode()).hexdigest()[:20]
    assert files_fingerprint(tmp_path, [tmp_path / "a.png"]) == expected


def test_classes_by_name() -> None:
    assert class_indices(["b"], ["a", "b"], "option") == {1}
    with pytest.raises(DataError, match="option: x unknown; classes are a, b"):
        class_indices(["x"], ["a", "b"], "option")


def test_labelled_files(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    picture(8, 6).save(tmp_path / "cat" / "1.png")
    picture(8, 6).save(tmp_path / "2.png")
    files = [(tmp_path / "cat" / "1.png", 3), (tmp_path / "2.png", None)]
    made = LabelledFiles(tmp_path, files, ("a", "b", "c", "cat"), "val", {"mode": "none"})
    assert [(made[i].id, made[i].targets, made[i].size0) for i in range(len(made))] == [
        ("cat/1.png", (3,), (6, 8)),
        ("2.png", (), (6, 8)),
    ]
    other = LabelledFiles(tmp_path, [(files[0][0], 2), files[1]], made.classes, "val", None)
    assert made.fingerprint() != other.fingerprint()


# Against torchvision, and by hand


SIZES = [(320, 240), (240, 320), (500, 375), (333, 500), (64, 64), (100, 37), (37, 100), (257, 256), (225, 301)]


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth structure with noise, so that resampling and one pixel's offset both show."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    smooth = np.stack([np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 5)], -1) * 80 + 128
    return Image.fromarray(np.clip(smooth + rng.normal(0, 30, smooth.shape), 0, 255).astype(np.uint8))


def torchvision_transform(image: Image.Image, transform: Transform) -> Tensor:
    """The same by torchvision's classic transforms."""
    from torchvision import transforms

    bilinear = transforms.InterpolationMode.BILINEAR
    steps = {
        "squash": [transforms.Resize((transform.size, transform.size), bilinear)],
        "shorter": [transforms.Resize(transform.size, bilinear)],
        "crop": [transforms.Resize(transform.resize, bilinear), transforms.CenterCrop(transform.size)],
    }[transform.mode]
    return transforms.Compose([*steps, transforms.ToTensor()])(image)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize(
    "transform",
    [Transform("squash", 48), Transform("shorter", 48), Transform("crop", 48, 56), Transform("crop", 48, 48)],
    ids=lambda t: f"{t.mode}-{t.resize}",
)
def test_transforms_are_torchvisions(transform: Transform, size: tuple[int, int]) -> None:
    """Resize, or Resize and CenterCrop, on PIL images: same shape, values to 1/255 (one grey level)."""
    image = photograph(*size)
    ours, theirs = transform(image).image, torchvision_transform(image, transform)
    assert ours.shape == theirs.shape
    assert ours.dtype == torch.float32
    assert (ours - theirs).abs().max() <= 1 / 255 + 1e-6


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_shorter_side_rounds_as_torchvision(size: tuple[int, int]) -> None:
    """Every target from 30 to 130 px: the longer side is rounded down, in integers."""
    from torchvision.transforms.functional import _compute_resized_output_size

    for target in range(30, 131):
        height, width = _compute_resized_output_size((size[1], size[0]), [target])
        assert shorter_side(size, target) == (width, height)


def test_frames() -> None:
    """(height, width): the original image for squash and shorter, the crop for crop; images of the asked size."""
    image = photograph(300, 200)
    squash, shorter, crop = (Transform(mode, 60, 80)(image) for mode in ("squash", "shorter", "crop"))
    assert squash.image.shape == (3, 60, 60)
    assert shorter.image.shape == (3, 60, 90)
    assert crop.image.shape == (3, 60, 60)
    assert [framed.size0 for framed in (squash, shorter, crop)] == [(200, 300), (200, 300), (60, 60)]


def test_boxes_stay_where_the_frame_is_the_image() -> None:
    """Whole images: same coordinates, clipped to the image; empty ones dropped."""
    framed = Transform("squash", 60)(photograph(300, 200))
    boxes = torch.tensor([[10.0, 20, 30, 40], [-5, -5, 400, 400], [300, 0, 310, 10], [50, 60, 50, 80]])
    assert framed.boxes(boxes).tolist() == [[10, 20, 30, 40], [0, 0, 300, 200]]
    assert framed.boxes(torch.zeros(0, 4)).shape == (0, 4)


def test_a_crop_moves_boxes() -> None:
    """200x100 -> 120x60 (factor 3/5) -> the central 40x40, from (40, 10): by hand.

    A box over the centre is moved, one over the edge clipped, one outside dropped, one that touches dropped.
    """
    framed = Transform("crop", 40, 60)(photograph(200, 100))
    boxes = torch.tensor([[100.0, 50, 110, 60], [0, 0, 80, 50], [0, 0, 60, 100], [0, 0, 200 / 3, 100]])
    moved = framed.boxes(boxes)
    expected = torch.tensor([[20.0, 20, 26, 26], [0, 0, 8, 20]])
    torch.testing.assert_close(moved[:2], expected, rtol=0, atol=1e-4)
    assert (moved[2:, 2] - moved[2:, 0] < 1e-4).all()  # at most a rounding error of the box that touches


def test_a_crops_boxes_follow_its_pixels() -> None:
    """A white rectangle on black: after the crop the box still bounds the pixels brighter than half, to 1 px."""
    pixels = np.zeros((150, 230, 3), np.uint8)
    pixels[50:110, 90:160] = 255
    framed = Transform("crop", 64, 72)(Image.fromarray(pixels))
    bright = framed.image.mean(0) > 0.5
    rows, columns = torch.where(bright.any(1))[0], torch.where(bright.any(0))[0]
    seen = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()
    assert (framed.boxes(torch.tensor([[90.0, 50, 160, 110]]))[0] - seen).abs().max() <= 1


def test_pixels_become_numbers_between_zero_and_one() -> None:
    """[3,h,w] float32, value / 255, exactly."""
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 15
    tensor = to_tensor(Image.fromarray(pixels))
    assert tensor.is_contiguous()
    assert torch.equal(tensor, torch.from_numpy(pixels).permute(2, 0, 1).float() / 255)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "LA"])
def test_every_kind_of_image_is_read_as_rgb(mode: str, tmp_path: Path) -> None:
    """Grey, transparent, palette and printing colours."""
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    photograph(20, 10).convert("L" if mode == "LA" else "RGB").convert(mode).save(path)
    image = read_image(path)
    assert image.mode == "RGB"
    assert image.size == (20, 10)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("damage", ["text", "empty", "cut"])
def test_damaged_images_are_named(damage: str, suffix: str, tmp_path: Path) -> None:
    """No image at all, nothing, half a file: the path, and what to do."""
    path = tmp_path / f"broken.{suffix}"
    photograph(200, 100).save(path)
    whole = path.read_bytes()
    path.write_bytes({"text": b"<html>404</html>", "empty": b"", "cut": whole[: len(whole) // 2]}[damage])
    with pytest.raises(DataError, match=rf"broken.{suffix} cannot be read as an image .*replace or remove the file"):
        read_image(path)


def test_bytes_are_named_as_the_caller_says() -> None:
    """Images inside parquet files have no path."""
    with pytest.raises(DataError, match=r"row 3 of x.parquet cannot be read as an image"):
        decode_image(io.BytesIO(b"no image"), "row 3 of x.parquet")


def test_files_are_found_below_and_sorted(tmp_path: Path) -> None:
    """Any case of suffix, any depth; no other files; the same order whatever the file system says."""
    names = ["b/2.JPEG", "b/1.jpg", "a/9.png", "a/c/3.Jpg", "a/notes.txt", "a/x.xml"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert [str(path.relative_to(tmp_path)) for path in image_files(tmp_path)] == [
        *("a/9.png", "a/c/3.Jpg", "b/1.jpg", "b/2.JPEG")
    ]


def test_fingerprint_of_files(tmp_path: Path) -> None:
    """Changes with a file added, removed, renamed or of another size; not with the folder or the time."""

    def made(folder: str, files: dict[str, int]) -> str:
        for name, size in files.items():
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).write_bytes(b"x" * size)
        return files_fingerprint(tmp_path / folder, image_files(tmp_path / folder))

    base = {"a/1.jpg": 5, "a/2.jpg": 6}
    first = made("one", base)
    others = [{"a/1.jpg": 5}, base | {"a/3.jpg": 1}, {"a/1.jpg": 5, "b/2.jpg": 6}, base | {"a/2.jpg": 7}]
    assert len({first, *(made(f"other{i}", files) for i, files in enumerate(others))}) == 5
    assert made("elsewhere", base) == first
    whole = [files_fingerprint(tmp_path / "one", [], image_files(tmp_path / "one"))]
    (tmp_path / "one" / "a" / "1.jpg").write_bytes(b"y" * 5)
    assert made("one", {}) == first  # names and sizes alone ...
    assert files_fingerprint(tmp_path / "one", [], image_files(tmp_path / "one")) not in whole  # ... or all bytes
    os.utime(tmp_path / "one" / "a" / "1.jpg", (0, 0))
    assert made("one", {}) == first
