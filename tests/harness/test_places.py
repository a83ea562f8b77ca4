"""Folders and object stores answer alike, and what neither can be is refused."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from assay.harness.config import ConfigError
from assay.harness.overrides import compose_config
from assay.harness.places import (
    NoPlace,
    files_below,
    folders_in,
    is_remote,
    names_in,
    place,
    read_bytes,
    rename,
    sizes_in,
    stamps,
)
from assay.harness.store.files import write_atomically
from assay.harness.store.store import Group, shards_of


@pytest.fixture(params=["folder", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder, or a place of fsspec's store in memory."""
    if request.param == "folder":
        yield place(str(tmp_path / "results"))
        return
    pytest.importorskip("upath", reason="universal_pathlib is not installed")
    yield place(f"memory://{uuid4()}/results")


def test_both_answer_alike(root: Path) -> None:
    """Written, listed, read, overwritten, renamed, removed."""
    assert (names_in(root), folders_in(root), root.exists(), stamps(root)) == (set(), set(), False, {})
    write_atomically(root / "a" / "x.json", b"1")
    write_atomically(root / "a" / "b" / "y.json", b"22")
    assert (names_in(root / "a"), folders_in(root), folders_in(root / "a")) == ({"b", "x.json"}, {"a"}, {"b"})
    assert sorted(path.name for path in root.glob("*/*.json")) == ["x.json"]
    assert read_bytes(root / "a" / "b" / "y.json") == b"22" and (root / "a" / "b" / "y.json").stat().st_size == 2
    assert (sizes_in(root / "a"), sizes_in(root / "a" / "b"), sizes_in(root / "none")) == (
        {"x.json": 1},
        {"y.json": 2},
        {},
    )
    before = stamps(root)
    write_atomically(root / "a" / "x.json", b"3")
    after = stamps(root)
    assert before.keys() == after.keys() and [name for name in after if after[name] != before[name]] == [
        next(name for name in after if name.endswith("x.json"))
    ]
    rename(root / "a" / "x.json", root / "a" / "z.json")
    assert names_in(root / "a") == {"b", "z.json"} and read_bytes(root / "a" / "z.json") == b"3"
    (root / "a" / "z.json").unlink()
    (root / "a" / "z.json").unlink(missing_ok=True)
    assert names_in(root / "a") == {"b"}
    with pytest.raises(FileNotFoundError):
        read_bytes(root / "a" / "z.json")


def test_what_goes_while_it_is_looked_at_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file half written is hidden and soon renamed; another one may be removed between listing and looking."""
    for name in ("a/x.json", "a/y.json", "a/.x.json.host.1.tmp"):
        write_atomically(tmp_path / name, b"1")
    (tmp_path / "a" / "gone.json").symlink_to(tmp_path / "nowhere")  # listed, and not there
    assert stamps(tmp_path).keys() == {"a/x.json", "a/y.json"}
    look = Path.stat

    def renamed_meanwhile(path: Path, **more: bool) -> object:
        if path.name == "y.json":
            path.unlink(missing_ok=True)
        return look(path, **more)

    monkeypatch.setattr(Path, "stat", renamed_meanwhile)
    assert stamps(tmp_path).keys() == {"a/x.json"}


def test_what_lies_below_is_one_listing() -> None:
    """By folder, of the last part of names alone."""
    pytest.importorskip("upath", reason="universal_pathlib is not installed")
    root = place(f"memory://{uuid4()}/results")
    for name in ("cell/a/1.json", "cell/a/2.json", "cell/b/1.json", "cell/top.json", "cellar/a/1.json"):
        write_atomically(root / name, b"")
    assert files_below(root / "cell") == {"a": {"1.json", "2.json"}, "b": {"1.json"}, "": {"top.json"}}


def test_the_bytes_of_a_group_are_one_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three shards and what is none: no question about each of them."""
    pytest.importorskip("upath", reason="universal_pathlib is not installed")
    group = Group(place(f"memory://{uuid4()}/results/cell/group"))
    for shard in shards_of(6, 2):
        group.write(shard, {"position": np.arange(*shard), "sample_id": np.array(["a", "b"], dtype=object)})
    write_atomically(group.path / "group.json", b"{}")
    expected = sum((group.path / f"{shard}.parquet").stat().st_size for shard in group.shards())
    monkeypatch.setattr(type(group.path), "stat", None)
    monkeypatch.setattr(type(group.path.fs), "info", None)  # type: ignore[attr-defined]
    assert expected > 0 and group.size() == expected


def test_a_folder_stays_a_path(tmp_path: Path) -> None:
    """Also as fsspec names it: nothing of it goes through fsspec."""
    assert place("results") == Path("results") and place(tmp_path) == tmp_path
    assert place(f"file://{tmp_path}") == place(f"local://{tmp_path}") == tmp_path
    assert not is_remote(place(f"file://{tmp_path}"))


@pytest.mark.parametrize("protocol", ["nowhere", "sftp", "hdfs", "ftp", "smb", "simplecache::memory"])
def test_where_a_file_could_be_half_there_is_refused(protocol: str) -> None:
    """By name, before anything of it is loaded; with what can be chosen."""
    with pytest.raises(NoPlace, match=f"^{protocol}:// is no store .* choose one of s3://, .*memory://, or a folder"):
        place(f"{protocol}://bucket/results")
    with pytest.raises(ConfigError, match=rf"results={protocol}://bucket/results: {protocol}:// is no store"):
        compose_config([f"results='{protocol}://bucket/results'"])


def test_the_store_in_memory_is_a_place() -> None:
    pytest.importorskip("upath", reason="universal_pathlib is not installed")
    assert is_remote(place("memory://x"))


@pytest.mark.parametrize("worker", ["2/2", "1", "-1/2", "a/b", "0/0"])
def test_a_worker_s_number_is_checked(worker: str) -> None:
    """From 0 on, below the number of workers."""
    with pytest.raises(ConfigError, match="give K/N with K from 0 to N - 1"):
        compose_config(["compute.coordination=none", f"compute.worker='{worker}'"])


def test_a_number_beside_locks_is_refused() -> None:
    """It would say nothing."""
    with pytest.raises(ConfigError, match=r"compute\.worker=0/2: workers that share locks need no number"):
        compose_config(["compute.worker=0/2"])
    with pytest.raises(ConfigError, match=r"compute\.coordination=nobody: choose one of locks, none"):
        compose_config(["compute.coordination=nobody"])
