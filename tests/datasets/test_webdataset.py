"""WebDataset tars, made by hand; the webdataset package reads them beside us."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from assay.datasets.decoding import DataError
from assay.datasets.webdataset import WebDataset
from assay.harness.engine.samples import Checked
from assay.harness.launch import run
from assay.harness.overrides import compose_config
from assay.harness.places import names_in
from assay.harness.store.store import Shard, shards_of
from PIL import Image
from torch.utils.data import DataLoader


def encoded(value: int, kind: str = "PNG") -> bytes:
    """An image of 6x4 pixels, all of one red."""
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), (value, 0, 0)).save(buffer, kind)
    return buffer.getvalue()


def write(path: Path, *files: tuple[str, bytes]) -> None:
    """A tar of these files, in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            about = tarfile.TarInfo(name)
            about.size = len(data)
            tar.addfile(about, io.BytesIO(data))


def sample(key: str, value: int, label: int | None = None, **more: bytes) -> list[tuple[str, bytes]]:
    """KEY.png, KEY.cls and what else there is."""
    labels = [] if label is None else [(f"{key}.cls", str(label).encode())]
    return [(f"{key}.png", encoded(value)), *labels, *((f"{key}.{ending}", data) for ending, data in more.items())]


def load(root: Path, **settings: Any) -> WebDataset:
    return WebDataset(str(root), **{"transform": {"mode": "none"}, **settings})


def red(data: WebDataset, index: int) -> int:
    return round(float(data[index].image[0, 0, 0]) * 255)


def two_tars(root: Path) -> None:
    write(root / "val-000001.tar", *sample("c/3", 40, 0), *sample("c/4", 50, -1))
    write(root / "val-000000.tar", *sample("a", 10, 1), *sample("b", 20, 2), *sample("d", 30, 0))


def test_samples_of_tars_in_order(tmp_path: Path) -> None:
    """Tars by name, samples as they lie in them, read in any order; a class is a number, -1 is none."""
    two_tars(tmp_path)
    data = load(tmp_path)
    assert (len(data), data.classes, data.split) == (5, ["0", "1", "2"], "test")
    assert [red(data, index) for index in (4, 0, 3, 1, 2)] == [50, 10, 40, 20, 30]
    assert [data[index].targets for index in range(5)] == [(1,), (2,), (0,), (0,), ()]
    assert [data[index].id for index in (0, 3)] == ["val-000000/a", "val-000001/c/3"]
    assert data[0].size0 == (4, 6)
    loader: DataLoader[Any] = DataLoader(cast(Any, data), 1, num_workers=1, collate_fn=list)
    assert [each[0].targets for each in loader] == [data[index].targets for index in range(5)]


def test_a_tar_is_whole_shards(tmp_path: Path) -> None:
    """Shards of two: the first tar's three samples are two shards, and no shard has samples of both."""
    two_tars(tmp_path)
    data = Checked("tars", load(tmp_path))
    assert list(data.borders) == [0, 3, 5]
    assert shards_of(5, 2, data.borders) == [Shard(0, 2), Shard(2, 3), Shard(3, 5)]
    assert shards_of(4, 9, data.borders) == [Shard(0, 3), Shard(3, 4)]  # limit=4


def test_a_run_cuts_its_shards_there(tmp_path: Path) -> None:
    """From the command line's words to the files of the store, and the same again computes nothing."""
    for tar, count in (("a", 3), ("b", 2)):
        write(tmp_path / f"{tar}.tar", *(part for n in range(count) for part in sample(f"{n}", 40 * n, n)))
    words = [
        *(
            "dataset=webdataset",
            f"dataset.root={tmp_path}",
            "dataset.transform.mode=squash",
            "dataset.transform.size=64",
        ),
        *("method=[center]", "metric=[insertion]", "compute.processes=1", "compute.shard_size=2"),
        *("dataset.classes=scenes", "compute.device=cpu", f"results={tmp_path / 'results'}"),
    ]
    assert run(compose_config(words), []) == 0
    (samples,) = (tmp_path / "results" / "store").glob("*/samples")
    assert len([name for name in names_in(samples) if "-0000000" in name]) == 3


def test_labels_absent(tmp_path: Path) -> None:
    """label=null reads none, so there are no targets; of some alone it is an error that names the first."""
    write(tmp_path / "a.tar", *sample("x", 1), *sample("y", 2))
    data = load(tmp_path, label=None)
    assert [data[index].targets for index in (0, 1)] == [(), ()] and list(data.classes) == []
    write(tmp_path / "b.tar", *sample("z", 3, 0))
    with pytest.raises(DataError, match=r"a\.tar: x has no \.cls, and others have"):
        load(tmp_path)
    assert load(tmp_path, label=None)[2].targets == ()


def test_boxes(tmp_path: Path) -> None:
    """Half-open edges by class; targets are the classes of boxes where there is no .cls."""
    about = {"boxes": [[0, 0, 2, 2], [1, 1, 5, 4], [3, 0, 6, 1]], "labels": [1, 0, 1]}
    write(tmp_path / "a.tar", *sample("x", 1, json=json.dumps(about).encode()), *sample("y", 2))
    data = load(tmp_path, boxes="JSON", label=None)
    assert data[0].targets == (0, 1) and data[1].targets == () and data[1].boxes == {}
    assert data[0].boxes[1].tolist() == [[0, 0, 2, 2], [3, 0, 6, 1]] and data[0].boxes[0].tolist() == [[1, 1, 5, 4]]
    assert load(tmp_path, label=None)[0].boxes == {}


@pytest.mark.parametrize(("setting", "value"), [("label", "class"), ("boxes", "jsn")])
def test_a_name_that_no_sample_has_is_refused(setting: str, value: str, tmp_path: Path) -> None:
    """It would leave all labels, or boxes, out; upper and lower case are one."""
    write(tmp_path / "a.tar", *sample("x", 1, 1, json=b'{"boxes": [], "labels": []}'))
    with pytest.raises(
        DataError, match=rf"dataset\.{setting}={value}: no sample .*: there are cls, json, png: .*=null to"
    ):
        load(tmp_path, **{setting: value})
    assert load(tmp_path, label="CLS", images=["PNG"])[0].targets == (1,)


@pytest.mark.parametrize("files", ["", "absolute"])
def test_files_are_named_from_the_root(files: str, tmp_path: Path) -> None:
    write(tmp_path / "a.tar", *sample("x", 1, 1))
    with pytest.raises(DataError, match=r"dataset\.files=.*: give a name or pattern below dataset\.root="):
        load(tmp_path, files=str(tmp_path / "*.tar") if files else "")


@pytest.mark.parametrize(
    ("files", "settings", "told"),
    [
        ([*sample("x", 1), *sample("x", 2)], {}, r"a\.tar: x\.png is there twice"),
        ([*sample("x", 1), *sample("y", 2), ("x.cls", b"1")], {}, r"a\.tar: the key x comes twice, with other files"),
        ([("x.png", b"no image")], {"label": None}, r"1 of 1 images cannot be read.*a\.tar: x\.png"),
        ([("x.cls", b"1")], {}, r"a\.tar: x holds 0 images \(\.cls\)"),
        ([*sample("x", 1), ("x.jpg", encoded(1, "JPEG"))], {"label": None}, r"x holds 2 images \(\.png, \.jpg\)"),
        (sample("x", 1, cls=b"cat"), {}, r"x\.cls: b'cat' is no class: write a whole number"),
        (sample("x", 1, -2), {}, r"x\.cls: -2 is no class"),
        (sample("x", 1, 3), {"classes": ["a", "b"]}, r"a\.tar: x: class 3 is none of 2"),
        (sample("x", 1, 0, json=b"[]"), {"boxes": "json"}, r"x\.json holds no boxes \(TypeError"),
        (sample("x", 1, 0, json=b'{"boxes": [[0,0,1,1]], "labels": []}'), {"boxes": "json"}, r"x\.json holds no boxes"),
        (
            sample("x", 1, 0, json=b'{"boxes": [[0,0,1,1]], "labels": [0.9]}'),
            {"boxes": "json"},
            r"0\.9 is no whole",
        ),
        (sample("x", 1, 0, json=b'{"boxes": [[2,0,1,1]], "labels": [0]}'), {"boxes": "json"}, r"x\.json: .* is no box"),
        (
            sample("x", 1, 0, json=b'{"boxes": [[0,0,9,9]], "labels": [0]}'),
            {"boxes": "json"},
            r"x\.json: .*lies outside",
        ),
        ([], {}, r"a\.tar holds no sample"),
    ],
    ids=str.split("twice again no-image none two word negative unknown list unequal fraction no-box outside empty"),
)
def test_what_is_wrong_is_named(
    files: list[tuple[str, bytes]], settings: dict[str, Any], told: str, tmp_path: Path
) -> None:
    """The tar, the key and the file."""
    write(tmp_path / "a.tar", *files)
    with pytest.raises(DataError, match=told):
        load(tmp_path, **settings)[0]


def test_a_damaged_tar_is_named(tmp_path: Path) -> None:
    """Cut anywhere, compressed, or no tar at all: never fewer samples."""
    write(tmp_path / "a.tar", *sample("x", 1, 0), *sample("y", 2, 1))
    path = tmp_path / "a.tar"
    whole = path.read_bytes()
    last = 512 * 8  # four files of a header and a block each; what follows ends the tar
    for length in (100, 512, 700, last - 600, last - 512, last - 1, last, last + 512):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"a\.tar(:| is no tar that can be read| is cut short)"):
            load(tmp_path)
    path.write_bytes(whole[: last + 1024])  # two blocks of zeros are an end, and all that some programs write
    assert len(load(tmp_path)) == 2
    with tarfile.open(path, "w:gz"):
        pass
    with pytest.raises(DataError, match=r"a\.tar is no tar that can be read .*a compressed one unpack"):
        load(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"no tar \*\.tar at .*Put the tars"):
        load(tmp_path)


def _patched(whole: bytes, at: int, new: bytes) -> bytes:
    return whole[:at] + new + whole[at + len(new) :]


def test_a_tar_that_ends_early_is_refused(tmp_path: Path) -> None:
    """Python's tarfile ends without a word at a header of zeros or with a wrong checksum: six files of 1 kB each."""
    path = tmp_path / "a.tar"
    write(path, *sample("x", 1, 0), *sample("y", 2, 1), *sample("z", 3, 1))
    whole, header, last = path.read_bytes(), 4 * 512, 12 * 512
    assert len(whole) == 10240 and len(load(tmp_path)) == 3
    ends = [
        (
            _patched(whole, header + 3, bytes([whole[header + 3] ^ 1])),
            r"at byte 2048, .*\(at 2048\): a header is damaged",
        ),
        (_patched(whole, header, bytes(512)), r"at byte 2048, .*\(at 2560\): a header is damaged"),
        (whole + whole, r"at byte 6144, .*\(at 10240\): .*or tars were joined"),
        (whole[:last] + b"x" + whole[last + 1 :], r"at byte 6144, .*\(at 6144\)"),
        (whole + bytes(512), "4608 zeros come after its last file"),
        (_patched(whole, header, bytes(len(whole) - header))[: last + 1024], "5120 zeros .* broken off"),
        (_patched(whole, header, bytes(len(whole) - header)) + bytes(10240), "18432 zeros .* broken off"),
    ]
    for data, told in ends:
        path.write_bytes(data)
        with pytest.raises(DataError, match=told):
            load(tmp_path)


def _linked(path: Path, kind: bytes, target: str) -> None:
    write(path, *sample("./x", 7, 1))
    with tarfile.open(path, "a") as tar:
        for ending in ("png", "cls"):
            about = tarfile.TarInfo(f"./y.{ending}")
            about.type, about.linkname = kind, f"{target}.{ending}"
            tar.addfile(about)


def test_a_files_second_name_is_a_file(tmp_path: Path) -> None:
    """tar stores what has two names (a hard link) once; a link whose bytes are elsewhere is refused, not left out."""
    _linked(tmp_path / "a.tar", tarfile.LNKTYPE, "./x")
    data = load(tmp_path)
    assert [(red(data, index), data[index].targets) for index in (0, 1)] == [(7, (1,)), (7, (1,))]
    for kind, target in ((tarfile.LNKTYPE, "elsewhere"), (tarfile.SYMTYPE, "x")):
        _linked(tmp_path / "a.tar", kind, target)
        with pytest.raises(DataError, match=rf"a\.tar: \./y\.png is a link to {target}\.png, .*--dereference"):
            load(tmp_path)
    _linked(tmp_path / "a.tar", tarfile.FIFOTYPE, "")
    with pytest.raises(DataError, match=r"\./y\.png is no file"):
        load(tmp_path)


def test_unreadable_images_can_be_left_out(tmp_path: Path) -> None:
    """Their number is in the split's name, and a tar's border moves with them."""
    write(tmp_path / "a.tar", *sample("x", 1, 0), ("y.png", b"no"), ("y.cls", b"0"))
    write(tmp_path / "b.tar", *sample("z", 3, 1))
    data = load(tmp_path, unreadable="skip")
    assert (len(data), data.split, data.borders) == (2, "test-1unreadable", [0, 1, 2])
    assert [red(data, index) for index in (0, 1)] == [1, 3]


def test_the_fingerprint_follows_the_contents(tmp_path: Path) -> None:
    """Another label of the same length, and another order, are other data."""
    found = set()
    for files in (
        [*sample("x", 1, 0), *sample("y", 2, 1)],
        [*sample("x", 1, 1), *sample("y", 2, 1)],
        [*sample("y", 2, 1), *sample("x", 1, 0)],
    ):
        write(tmp_path / "a.tar", *files)
        assert load(tmp_path).fingerprint() == load(tmp_path).fingerprint()
        found.add(load(tmp_path).fingerprint())
    assert len(found) == 3


@pytest.mark.slow
def test_the_webdataset_package_reads_the_same(tmp_path: Path) -> None:
    """Tars that it has written itself: keys, pixels and classes, sample by sample."""
    wds = pytest.importorskip("webdataset", reason="webdataset is not installed")
    rng = np.random.default_rng(0)
    with wds.ShardWriter(str(tmp_path / "val-%06d.tar"), maxcount=3) as sink:
        for number in range(8):
            pixels = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
            sink.write({"__key__": f"part/{number:03d}", "png": Image.fromarray(pixels), "cls": number % 4})
    tars = [str(path) for path in sorted(tmp_path.glob("*.tar"))]
    theirs = list(wds.WebDataset(tars, shardshuffle=False).decode("rgb").to_tuple("__key__", "png", "cls"))
    ours = load(tmp_path)
    assert len(ours) == len(theirs) == 8
    for (key, pixels, label), number in zip(theirs, range(8), strict=True):
        assert ours[number].id.endswith(key) and ours[number].targets == (label,)
        assert torch.equal(ours[number].image, torch.from_numpy(pixels).permute(2, 0, 1))
