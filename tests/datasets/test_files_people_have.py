"""Folders as people have them: deep and odd images, any ending, spaces, marks, phones, broken files."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from assay.datasets.files import Files
from assay.datasets.folder import Folder
from assay.datasets.parquet import Parquet
from assay.harness.build import build
from assay.harness.engine.request import Images
from assay.harness.engine.samples import Checked
from assay.harness.network import Network
from assay.harness.overrides import compose_config
from PIL import Image

PLAIN = {"mode": "none"}


def put(path: Path, pixels: Any = None, **how: Any) -> Path:
    """An image file; grey 100 unless told."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 6, 3), 100, np.uint8) if pixels is None else pixels).save(path, **how)
    return path


def only(path: Path, **settings: Any) -> torch.Tensor:
    """The one image of a folder, [3,h,w]."""
    return Folder(str(path), labels="none", transform=PLAIN, **settings)[0].image


# What pixels mean


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_sixteen_bits_are_shares_of_65535(ending: str, tmp_path: Path) -> None:
    """Read as it is, not cut at 255 and not rounded to 8 bits: 20000 is 77.82 of 255."""
    values = np.array([[0, 1, 300], [20000, 65534, 65535]], np.uint16)
    put(tmp_path / f"a.{ending}", values)
    expected = torch.from_numpy(values.astype(np.float64) / 65535).float().expand(3, 2, 3)
    torch.testing.assert_close(only(tmp_path), expected, rtol=1e-6, atol=1e-9)


def test_sixteen_bits_through_a_resize(tmp_path: Path) -> None:
    """Two by two means of 16-bit values, in float: (0 + 100 + 200 + 300) / 4 = 150 of 65535."""
    put(tmp_path / "a.png", np.array([[0, 100], [200, 300]], np.uint16))
    data = Folder(str(tmp_path), labels="none", transform={"mode": "squash", "size": 1})
    torch.testing.assert_close(data[0].image, torch.full((3, 1, 1), 150 / 65535), rtol=1e-5, atol=0)


def test_whole_numbers_of_32_bits(tmp_path: Path) -> None:
    """Mode I: as 16 bits; what goes beyond has no white, and is refused with its range."""
    put(tmp_path / "a.tif", np.array([[0, 13107], [65535, 6]], np.int32))
    assert only(tmp_path)[0, 0, 1].item() == pytest.approx(0.2, rel=1e-6)
    put(tmp_path / "a.tif", np.array([[0, 70000]], np.int32))
    with pytest.raises(ValueError, match=r"a\.tif .*mode I with values from 0 to 70000: white is 65535"):
        only(tmp_path)


def test_floats_are_shares_or_refused(tmp_path: Path) -> None:
    """Mode F in [0,1] as it is; 0 to 255, negative or not a number is refused."""
    put(tmp_path / "a.tiff", np.array([[0.0, 0.25], [0.5, 1.0]], np.float32))
    torch.testing.assert_close(only(tmp_path)[2], torch.tensor([[0.0, 0.25], [0.5, 1.0]]), rtol=1e-6, atol=0)
    for wrong in (200.0, -0.1, float("nan")):
        put(tmp_path / "a.tiff", np.array([[0.0, wrong]], np.float32))
        with pytest.raises(ValueError, match=r"a\.tiff cannot be read .*mode F with values from .*white is 1"):
            only(tmp_path)


def test_alpha_is_dropped_and_palettes_are_colours(tmp_path: Path) -> None:
    """LA and RGBA: the colours below; P: its colours; 1: black and white; CMYK: Pillow's 255 - ink."""
    pixels = np.array([[[200, 0]]], np.uint8)
    for made, expected in (
        (Image.fromarray(pixels, "LA"), [200, 200, 200]),
        (Image.new("RGBA", (1, 1), (10, 20, 30, 0)), [10, 20, 30]),
        (Image.new("RGB", (1, 1), (10, 20, 30)).convert("P", palette=Image.Palette.ADAPTIVE), [10, 20, 30]),
        (Image.new("1", (1, 1), 1), [255, 255, 255]),
        (Image.new("CMYK", (1, 1), (55, 155, 255, 0)), [200, 100, 0]),
    ):
        made.save(tmp_path / "a.tif")
        assert (only(tmp_path) * 255).round().flatten().tolist() == expected


# Which files are images, and what classes there are


@pytest.mark.parametrize("ending", ["tif", "TIFF", "gif", "jfif", "ppm", "jp2", "tga"])
def test_classes_come_from_folders(ending: str, tmp_path: Path) -> None:
    """A class of another ending is a class; the labels of the others stay."""
    form = {"jfif": "JPEG", "jp2": "JPEG2000"}.get(ending)
    put(tmp_path / "a_adenoma" / f"0.{ending}", format=form)
    put(tmp_path / "b_normal" / "0.png")
    data = Folder(str(tmp_path), transform=PLAIN)
    assert [(data[i].id, data[i].targets) for i in range(len(data))] == [
        (f"a_adenoma/0.{ending}", (0,)),
        ("b_normal/0.png", (1,)),
    ]


def test_a_class_folder_without_images_is_named(tmp_path: Path) -> None:
    """Whether there are files that are no images, or none at all; a folder that no list names is no class."""
    put(tmp_path / "b" / "0.png")
    (tmp_path / "a").mkdir()
    (tmp_path / "list.txt").write_text("b\n")
    with pytest.raises(ValueError, match=r"class folder .*/a has no image but nothing in it"):
        Folder(str(tmp_path))
    (tmp_path / "a" / "scan.dcm").touch()
    with pytest.raises(ValueError, match=r"class folder .*/a has no image but only \.dcm.*convert"):
        Folder(str(tmp_path))
    assert len(Folder(str(tmp_path), wnids="list.txt")) == len(Folder(str(tmp_path), labels="none")) == 1
    (tmp_path / "list.txt").write_text("a\nb\n")
    with pytest.raises(ValueError, match=r"class folder .*/a has no image"):
        Folder(str(tmp_path), wnids="list.txt")


def test_pictures_that_pillow_does_not_read_are_said(tmp_path: Path) -> None:
    """A phone's and a scanner's, beside others of their class; a note is no picture."""
    put(tmp_path / "a" / "0.png")
    for name in ("a/1.HEIC", "a/2.heic", "a/3.dcm", "a/notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    data = Folder(str(tmp_path), transform=PLAIN)
    said = f"1 .dcm, 2 .heic below {tmp_path} are not read, as Pillow reads no such files: convert them"
    images = Images("mine", Checked("mine", data), np.arange(1), 1, {"dataset": {"order": None}})
    network = Network(torch.nn.Identity(), [0.0] * 3, [1.0] * 3)
    assert images.cautions(network) == [f"mine: {said}"]


def test_hidden_files_and_folders_are_nobodys(tmp_path: Path) -> None:
    """What a Mac and a notebook leave behind is neither an image nor a class."""
    put(tmp_path / "cat" / "0.png")
    put(tmp_path / ".ipynb_checkpoints" / "0-checkpoint.png")
    for left in (tmp_path / "cat" / "._0.png", tmp_path / "__MACOSX" / "cat" / "._0.png"):
        left.parent.mkdir(parents=True, exist_ok=True)
        left.write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X        ")
    data = Folder(str(tmp_path))
    assert (len(data), list(data.classes)) == (1, ["cat"])


def test_a_linked_class_folder_counts(tmp_path: Path) -> None:
    """Subsets are often made of links."""
    put(tmp_path / "all" / "cat" / "0.png")
    put(tmp_path / "some" / "dog" / "0.png")
    (tmp_path / "some" / "cat").symlink_to(tmp_path / "all" / "cat")
    data = Folder(str(tmp_path / "some"))
    assert [data[i].id for i in range(len(data))] == ["cat/0.png", "dog/0.png"]


def test_classes_by_number(tmp_path: Path) -> None:
    """1, 2, 10 as numbers; as text 10 stands before 2."""
    for name in ("1", "2", "10"):
        put(tmp_path / name / "0.png")
    assert list(Folder(str(tmp_path)).classes) == ["1", "10", "2"]
    data = Folder(str(tmp_path), order="number")
    assert list(data.classes) == ["1", "2", "10"]
    assert {data[i].id: data[i].targets for i in range(3)} == {"1/0.png": (0,), "2/0.png": (1,), "10/0.png": (2,)}
    with pytest.raises(ValueError, match="order='size': choose text or number"):
        Folder(str(tmp_path), order="size")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_lists_have_one_name_a_line(encoding: str, newline: str, tmp_path: Path) -> None:
    """Spaces are part of a name; a byte-order mark, blank lines and a Windows line end are not."""
    names = ["polar bear", "grey owl", "blåmes"]
    for name in names:
        put(tmp_path / name / "0.png")
    (tmp_path / "classes.txt").write_bytes((newline.join(names) + newline * 2).encode(encoding))
    data = Folder(str(tmp_path), wnids="classes.txt")
    assert list(data.classes) == names
    assert {data[i].id: data[i].targets for i in range(3)} == {f"{n}/0.png": (i,) for i, n in enumerate(names)}


def test_a_list_that_is_no_list(tmp_path: Path) -> None:
    """A name twice would be two classes; another encoding cannot be read."""
    put(tmp_path / "cat" / "0.png")
    (tmp_path / "classes.txt").write_text("dog\ncat\ncat\n")
    with pytest.raises(ValueError, match=r"classes\.txt lists cat more than once"):
        Folder(str(tmp_path), wnids="classes.txt")
    (tmp_path / "classes.txt").write_bytes("blåmes\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"classes\.txt is no UTF-8 text .*save it as UTF-8"):
        Folder(str(tmp_path), wnids="classes.txt")


# Which way up


def phone(path: Path) -> Path:
    """Stored 3 wide, 2 high, to be turned a quarter clockwise: the left column becomes the top row."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return put(path, np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 10, exif=exif)


TURNED = np.rot90(np.arange(18).reshape(2, 3, 3) * 10, -1)


def test_a_photograph_is_read_upright(tmp_path: Path) -> None:
    """In folders, among files named one by one, in parquet; `stored` as it lies in the file."""
    path = phone(tmp_path / "a.png")
    table = pa.table({"image": [{"bytes": path.read_bytes(), "path": "a.png"}]})
    pq.write_table(table, tmp_path / "a.parquet")
    for data in (
        Folder(str(tmp_path), labels="none", transform=PLAIN),
        Files([str(path)], transform=PLAIN),
        Parquet(str(tmp_path), "a.parquet", transform=PLAIN),
    ):
        assert data[0].size0 == (3, 2)
        assert np.array_equal((data[0].image * 255).round().permute(1, 2, 0).numpy(), TURNED)
    assert tuple(only(tmp_path, orientation="stored").shape) == (3, 2, 3)
    with pytest.raises(ValueError, match="orientation='exif': choose upright or stored"):
        only(tmp_path, orientation="exif")


@pytest.mark.parametrize("name", ["inaturalist", "isun", "lsun_c", "lsun_r", "places", "sun"])
def test_published_sets_stay_as_they_are_stored(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the papers read them."""
    monkeypatch.setenv("ASSAY_DATA", str(tmp_path))
    config = compose_config(["dataset=cifar10", f"ood=[{name}]"])
    assert config.ood[name].settings["orientation"] == "stored"


# What cannot be read


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Ten good images, half a PNG, a text that says it is a JPEG, a Mac's shadow."""
    for i in range(10):
        put(tmp_path / f"{i:03}.png", np.random.default_rng(i).integers(0, 255, (16, 16, 3), dtype=np.uint8))
    (tmp_path / "zz_half.png").write_bytes((tmp_path / "000.png").read_bytes()[:300])
    (tmp_path / "005_text.jpg").write_text("<html>")
    (tmp_path / "._000.png").write_bytes(b"\0\5\26\7")
    return tmp_path


def test_all_broken_files_are_named_at_once(broken: Path) -> None:
    data = Folder(str(broken), labels="none", transform=PLAIN)
    with pytest.raises(ValueError, match=r"2 of 12 images cannot be read .*005_text\.jpg .*zz_half\.png") as caught:
        data[11]
    assert "unreadable=skip" in str(caught.value)
    assert "\n" not in str(caught.value)  # it stands in a row
    assert data[0].id == "000.png"


def test_broken_files_can_be_skipped(broken: Path) -> None:
    """The rest stays in order; the number stands in the split, so in every row; the set is another one."""
    data = Folder(str(broken), labels="none", transform=PLAIN, unreadable="skip", split="test")
    assert [data[i].id for i in range(len(data))] == [f"{i:03}.png" for i in range(10)]
    assert data.split == "test-2unreadable"
    assert data.fingerprint() != Folder(str(broken), labels="none").fingerprint()
    whole = Files([str(broken / "000.png")], unreadable="skip")
    assert (whole.split, len(whole)) == ("files", 1)
    with pytest.raises(ValueError, match=r"none of 1 images below .* can be read"):
        Files([str(broken / "zz_half.png")], unreadable="skip")
    with pytest.raises(ValueError, match="unreadable='drop': choose refuse or skip"):
        Folder(str(broken), labels="none", unreadable="drop")


def test_skipping_from_the_command_line(broken: Path) -> None:
    config = compose_config(
        ["dataset=scenes", "ood=[folder]", f"ood.folder.root={broken}", "ood.folder.unreadable=skip"]
    )
    assert len(build(config.ood["folder"])) == 10
