"""Bytes that are not those that were written: found in every kind of file, named, and never in the way of the rest."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from assay.harness import launch
from assay.harness.commands.program import call
from assay.harness.overrides import compose_config
from assay.harness.results.tidy import _run_rows, cell_rows, put_record
from assay.harness.store import damage, store
from assay.harness.store.damage import Damaged, Incomplete
from assay.harness.store.fits import Fit
from assay.harness.store.identity import SCHEMA
from assay.harness.store.outcomes import Failure, Finished
from assay.harness.store.sealed import read_json, read_sealed, read_unsealed, write_json, write_sealed
from assay.harness.store.store import FEATURES, CellStore, Group, Shard
from assay.harness.store.survey import cells, survey
from assay.harness.types import ResultRow
from safetensors.torch import load_file

LABELS: dict[str, Any] = {"model": "net", "dataset": "data", "protocol": "p", "kind": "ood", "seed": 0}
FLIPS = 200


@pytest.fixture(autouse=True)
def unnamed() -> Iterator[None]:
    """Nothing is named yet."""
    damage.found.clear()
    yield
    damage.found.clear()


def shard(start: int, stop: int) -> dict[str, np.ndarray]:
    """Columns of every kind; a sample's name looks like a checksum."""
    names = np.array([f"assay-crc32:{i:08x}" for i in range(start, stop)], dtype=object)
    curve = np.random.default_rng(start).random((stop - start, 5), dtype=np.float32)
    return {"position": np.arange(start, stop), "sample_id": names, "values": curve}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with a file of every kind, 14 in all."""
    results = tmp_path_factory.mktemp("small")
    root = results / "store"
    for name in ("one", "two"):
        cell = CellStore(root, name)
        identity = {"schema": SCHEMA, "method": {"_target_": "x"}, "protocol": {}}
        cell.describe({"identity": identity, "labels": LABELS | {"method": name}}, {"metric": {"name": "m"}})
        group = cell.group("metric")
        for start in (0, 4):
            group.write(Shard(start, start + 4), shard(start, start + 4))
        rows = [asdict(ResultRow("", "mean", value, 8)) for value in (0.5, float("nan"))]
        group.finish(8, Finished("run", "test", rows))
    CellStore(root, "two").group("metric").fail(Failure("ValueError: no", "assay-crc32:12345678"))
    features = CellStore(root / FEATURES, "data").group("logits")
    features.write(Shard(0, 8), shard(0, 8))
    Fit(root, "fit").write({"mean": torch.arange(6.0), "names": torch.tensor([1, 2])})
    put_record(results, "run", "then", {"wall_s": 1.5, "methods": {"one": {"status": "ok"}}})
    return results


Contents = dict[str, str]


def contents(results: Path) -> Contents:
    """All that can be read, as text by name; what is damaged is named and left out."""
    store = results / "store"
    readers: dict[str, Callable[[], Any]] = {"runs": lambda: list(_run_rows(results / "runs" / "run" / "then.json"))}
    for cell in ("one", "two"):
        kept = CellStore(store, cell)
        readers[cell] = partial(_rows, kept)
        readers[f"{cell} shards"] = partial(_columns, kept.group("metric"))
    readers["features"] = partial(_columns, CellStore(store / FEATURES, "data").group("logits"))
    readers["fit"] = lambda: sorted((name, value.tolist()) for name, value in Fit(store, "fit").read().items())
    return {name: str(made) for name, read in readers.items() if (made := damage.unless_damaged(read))}


def _rows(cell: CellStore) -> list[Any]:
    return list(cell_rows(cell))


def _columns(group: Group) -> list[Any]:
    return [{name: column.tolist() for name, column in part.items()} for part in group.parts(8)]


def files(results: Path) -> list[Path]:
    """Every file of a results folder but notes of what changed."""
    return sorted(path for path in results.rglob("*") if path.is_file() and path.stat().st_size)


def test_every_flipped_bit_changes_nothing_or_is_named(small: Path) -> None:
    """Seeded flips, as many of each file, at least one in the checksum itself: the file is named; all that has nothing
    to do with it is read as before."""
    before, drawn = contents(small), np.random.default_rng(0)
    assert not damage.found and len(before) == 7 and len(files(small)) == 14
    each = FLIPS // len(files(small)) + 1
    for path in files(small):
        whole = path.read_bytes()
        seal = whole.rindex(b"assay-crc32:")
        for place in [*drawn.integers(0, len(whole), each), seal, seal + 15]:
            broken = bytearray(whole)
            broken[place] ^= 1 << int(drawn.integers(8))
            path.write_bytes(broken)
            damage.found.clear()
            after = contents(small)
            assert damage.found == [path], f"bit flipped in byte {place} of {path}"
            lost = {name for name in before if after.get(name) != before[name]}
            assert lost <= _depending(path, small), f"byte {place} of {path}"
        path.write_bytes(whole)
    damage.found.clear()
    assert contents(small) == before


def _depending(path: Path, results: Path) -> set[str]:
    """What is read from a file."""
    parts = path.relative_to(results).parts
    if parts[0] == "runs":
        return {"runs"}
    if parts[1] in ("one", "two"):
        return {parts[1], f"{parts[1]} shards"}
    return {parts[1], "fit"}


SPOILT: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "half": lambda whole: whole[: len(whole) // 2],
    "a byte short": lambda whole: whole[:-1],
    "a byte more": lambda whole: whole + b"\n",
    "zeros": lambda whole: bytes(len(whole)),
    "a text": lambda whole: b"position,score\n0,1.5\n",
    "a list": lambda whole: b"[1, 2]",
    "a number": lambda whole: b"4\n",
    "another object": lambda whole: b'{"checksum": "assay-crc32:00000000"}',
}


@pytest.mark.parametrize("how", SPOILT)
def test_what_is_no_longer_the_file_is_named(small: Path, tmp_path: Path, how: str) -> None:
    """Truncated, empty, overwritten with something else: every kind of file."""
    results = shutil.copytree(small, tmp_path / "results")
    for path in files(results):
        whole = path.read_bytes()
        path.write_bytes(SPOILT[how](whole))
        damage.found.clear()
        contents(results)
        assert damage.found == [path]
        path.write_bytes(whole)


def test_a_folder_in_a_files_place_is_named(small: Path, tmp_path: Path) -> None:
    """As a disk repair leaves them."""
    results = shutil.copytree(small, tmp_path / "results")
    for path in files(results):
        path.unlink()
        path.mkdir()
    contents(results)
    named = {path.name for path in damage.found}
    assert named >= {"cell.json", "fit.safetensors", "then.json", "00000000-00000004.parquet"}


def test_files_stay_readable_by_others(small: Path) -> None:
    """pandas reads a shard, safetensors a fit; a JSON holds what was put."""
    path = next(small.rglob("one/metric/00000004-00000008.parquet"))
    assert pd.read_parquet(path)["position"].tolist() == [4, 5, 6, 7]
    assert load_file(next(small.rglob("fit*.safetensors")))["mean"].tolist() == list(range(6))
    write_json(small / "x" / "y.json", {"b": (1, 2), "a": {3: None}})
    assert read_json(small / "x" / "y.json") == {"a": {"3": None}, "b": [1, 2]}
    shutil.rmtree(small / "x")


def test_the_last_thing_that_looks_like_a_checksum_is_one(tmp_path: Path) -> None:
    """Of a text that holds several."""
    path = tmp_path / "file"
    write_sealed(path, b"assay-crc32:ffffffff and assay-crc32:00000000 end")
    made = read_sealed(path)
    assert made.startswith(b"assay-crc32:ffffffff and assay-crc32:") and made.endswith(b" end")
    path.write_bytes(made.replace(b"ffffffff", b"fffffffe"))
    with pytest.raises(Damaged, match="its checksum is another one"):
        read_sealed(path)


def test_cells_from_before_checksums_are_of_another_version(tmp_path: Path) -> None:
    """Told from damaged ones: no checksum, and a number that had none. Records of runs from then are read."""
    for name, text in {"old": '{"identity": {"schema": 3}}', "torn": '{"identity": {"schema": 4}}'}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "cell.json").write_text(text)
    seen = survey(tmp_path)
    assert [cell.key for cell in seen.outdated] == ["old"] and [cell.key for cell in seen.damaged] == ["torn"]
    assert read_unsealed(tmp_path / "old" / "cell.json") == {"identity": {"schema": 3}}


def test_a_gap_is_no_table(tmp_path: Path) -> None:
    """A shard that went between planning and reading: rows of the others are not the table."""
    group = CellStore(tmp_path, "cell").group("metric")
    for start in (0, 4, 8):
        group.write(Shard(start, start + 4), shard(start, start + 4))
    (group.path / "00000004-00000008.parquet").unlink()
    with pytest.raises(Incomplete, match="images 0 to 11 or some of them are missing"):
        group.read(12)
    assert len(group.read(4)) == 4


# A run that meets damage

MAPS = ["method=[gradcam,center]", "metric=[pointing_game]", "limit=8", "compute.shard_size=4"]
SMALL = ["compute.device=cpu", "compute.processes=1"]
SCORES = [
    *("experiment=ood_embedded", "dataset.size=16", "train.size=60", "ood=[scenes_noise]", "ood.scenes_noise.size=16"),
    *("method=[msp,mahalanobis]", "metric.ood.resamples=20", "compute.shard_size=8", "compute.batch_size=8"),
]


def run(results: Path, *words: str) -> int:
    """The exit code of a run in this process."""
    damage.found.clear()
    return launch.run(compose_config([*words, *SMALL, f"results={results}"]), list(words))


def flip(path: Path) -> None:
    """A bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of two methods and of two detectors."""
    results = tmp_path_factory.mktemp("whole")
    assert run(results, *MAPS) == 0 and run(results, *SCORES) == 0
    return results


COMMANDS = ["status", "collect", "gc", "compare"]


def codes(results: Path, *commands: str) -> dict[str, int]:
    """What reading commands end with."""
    words = {"compare": ["gradcam", "center"]}
    return {name: call([name, *words.get(name, []), "--results", str(results)]) for name in commands}


@pytest.mark.parametrize(
    ("kind", "readers"),
    [
        ("cell.json", {"status", "collect", "gc", "report"}),
        ("group.json", {"status", "collect", "compare"}),
        ("DONE-*.json", {"collect", "compare"}),
        ("[0-9a-f]*/*.parquet", {"compare"}),  # the metric's
    ],
)
def test_no_command_is_blocked_and_the_same_command_mends(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, readers: set[str]
) -> None:
    """A file of gradcam's cell is damaged: who reads it names it, says 1 and reads the rest; nothing is computed where
    nothing may be; the same command makes that anew alone, and the tables are those of before."""
    results = Path(shutil.copytree(whole, tmp_path / "results"))
    before = (results / "tidy/results.csv").read_bytes()
    (cell,) = [c for c in cells(results / "store") if c.cell()["labels"]["method"] == "gradcam"]
    path = next(cell.path.rglob(kind))
    flip(path)
    found = codes(results, *COMMANDS, *(["report"] if "report" in readers else []))
    assert {name for name, code in found.items() if code == 1} == readers
    assert {name for name, code in found.items() if code == 2} <= {"compare"}  # it knows no gradcam
    said = capsys.readouterr()
    assert f"damaged: {path} is damaged" in said.err and "center" in said.out
    assert f"makes what is damaged anew: python run.py {' '.join(MAPS)}\n" in said.err
    assert ",center," in (results / "tidy/results.csv").read_text()
    if kind.endswith("parquet"):
        damage.found.clear()
        assert call(["check", str(whole), str(results)]) == 2  # cannot compare: the rows are the same
        with pytest.raises(Damaged, match=r"parquet is damaged"):
            run(results, *MAPS, "cache=only")
    capsys.readouterr()
    assert run(results, *MAPS) == 0
    said = capsys.readouterr()
    assert f"{int(kind.endswith('parquet'))} shards computed" in said.out and f"damaged: {path} is damaged" in said.err
    assert codes(results, "collect") == {"collect": 0}
    assert (results / "tidy/results.csv").read_bytes() == before
    assert call(["gc", "--yes", "--results", str(results)]) == 0 and not list(results.rglob("*.damaged"))


def test_an_ill_disk_is_an_error(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is damaged again as soon as it was made anew is not computed for ever; who sets it aside may be second."""
    results = Path(shutil.copytree(whole, tmp_path / "results"))
    made: list[Path] = []

    def ill(path: Path, data: bytes) -> None:
        made.append(path)
        path.write_bytes(data)

    monkeypatch.setattr(store, "write_sealed", ill)
    (cell,) = [c for c in cells(results / "store") if c.cell()["labels"]["method"] == "gradcam"]
    flip(next(cell.path.glob("samples/*.parquet")))
    with pytest.raises(Damaged, match="its checksum is another one"):
        run(results, *MAPS)
    assert len(made) == 1
    damaged = Damaged([tmp_path / "gone"], "is damaged")
    damaged.set_aside()


def test_a_damaged_record_is_named_and_deleted(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing computes it anew: the message says what mends it."""
    results = Path(shutil.copytree(whole, tmp_path / "results"))
    path = next((results / "runs").glob("*/*.json"))
    flip(path)
    assert codes(results, "status", "collect") == {"status": 0, "collect": 1}
    assert f"damaged: {path} is damaged" in (said := capsys.readouterr().err) and "delete it" in said
    assert "anew" not in said
    path.unlink()
    assert codes(results, "collect") == {"collect": 0}


@pytest.mark.parametrize("lost", ["scores", "features and fits"])
def test_damaged_features_fits_and_scores_are_made_anew(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], lost: str
) -> None:
    """Scores gone where they would keep the rest from being read: each file is named, and the tables are equal."""
    results = Path(shutil.copytree(whole, tmp_path / "results"))
    store, before = results / "store", (results / "tidy/results.csv").read_bytes()
    scored = [path.parent.parent for path in sorted(store.glob("*/score/*.parquet"))]
    broken = [next(scored[0].glob("score/*.parquet")), next(scored[-1].glob("samples/*.parquet"))]
    if lost != "scores":
        for cell in scored:
            shutil.rmtree(cell / "score")
        broken = [next(store.glob(f"features/*/{name}/*.parquet")) for name in ("logits", "penultimate", "samples")]
        broken.append(next(store.glob("fits/*")))
    for path in broken:
        flip(path)
    assert run(results, *SCORES) == 0
    said = capsys.readouterr().err
    assert [path for path in broken if f"damaged: {path} is damaged" in said] == broken
    assert (results / "tidy/results.csv").read_bytes() == before
