"""Keys: everything that changes the numbers changes the key, and nothing else does."""

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from assay.harness.attribution.plan import build_job
from assay.harness.config import CONF, ROOT, RunConfig
from assay.harness.overrides import compose_config
from assay.harness.store import identity
from assay.harness.store.identity import (
    by_content,
    canonical,
    cell_identity,
    content,
    data_identity,
    digest,
    metric_identity,
    nested_versions,
)
from assay.methods.attribution.relevance.lrp import LRP
from assay.methods.attribution.shapley import ShapCAM

PARTS: dict[str, Any] = {
    "names": {"model": "resnet50", "dataset": "imagenet", "protocol": "standard", "method": "gradcam"},
    "model": {
        "_target_": "assay.harness.networks.loading.torchvision_network",
        "architecture": "resnet50",
        "weights": "a.pth",
    },
    "weights": "f1",
    "dataset": {
        "_target_": "assay.datasets.imagenet.ImageNet",
        "root": "/here",
        "transform": {"mode": "squash", "size": 224},
    },
    "data": "d1",
    "order": None,
    "protocol": {"targets": "labels", "smooth": 0.0},
    "method": {"_target_": "assay.methods.attribution.cam.GradCAM", "layer": "layer4", "signed": False},
    "version": 1,
    "seed": 0,
    "precision": "float32",
}
CHANGES: dict[str, Any] = {
    "a name": {"names": PARTS["names"] | {"protocol": "other"}},
    "model architecture": {"model": PARTS["model"] | {"architecture": "resnet18"}},
    "model setting": {"model": PARTS["model"] | {"activation": "sigmoid"}},
    "weights": {"weights": "f2"},
    "dataset setting": {"dataset": PARTS["dataset"] | {"transform": {"mode": "squash", "size": 256}}},
    "dataset class": {"dataset": PARTS["dataset"] | {"_target_": "assay.datasets.scenes.Scenes"}},
    "data": {"data": "d2"},
    "order": {"order": 0},
    "targets": {"protocol": {"targets": "top1", "smooth": 0.0}},
    "smooth": {"protocol": {"targets": "labels", "smooth": 0.02}},
    "method class": {"method": PARTS["method"] | {"_target_": "assay.methods.attribution.cam.LayerCAM"}},
    "method setting": {"method": PARTS["method"] | {"layer": "layer3"}},
    "method version": {"version": 2},
    "seed": {"seed": 1},
    "precision": {"precision": "float64"},
    "what it is fitted on": {"training": {"data": {"dataset": "d2"}, "images": 100}},
    "how much of it": {"training": {"data": {"dataset": "d2"}, "images": 50}},
}


def key(**changes: Any) -> str:
    """Key of the cell with some parts changed."""
    parts = PARTS | changes
    data = {name: parts.pop(name) for name in ("model", "weights", "dataset", "data", "order", "precision")}
    return digest(cell_identity(data_identity(**data), **parts))


def test_every_part_changes_the_key() -> None:
    """Each change alone gives a key of its own."""
    keys = {name: key(**changes) for name, changes in CHANGES.items()}
    assert len({key(), *keys.values()}) == len(CHANGES) + 1


def test_the_schema_changes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results written under another reading of the fields are never mixed in."""
    before = key(), digest(metric_identity({}, 1))
    monkeypatch.setattr(identity, "SCHEMA", identity.SCHEMA + 1)
    assert key() != before[0]
    assert digest(metric_identity({}, 1)) != before[1]


@pytest.mark.parametrize("place", ["weights", "sha256", "root", "download"])
def test_places_do_not(place: str) -> None:
    """Where weights and data lie is no part of a key; their fingerprints are."""
    for part in ("model", "dataset"):
        assert key(**{part: PARTS[part] | {place: "/elsewhere"}}) == key()
        assert content({place: 1, "size": 2, "inner": {place: 3, "mode": "x"}}) == {"size": 2, "inner": {"mode": "x"}}


def test_metric_keys() -> None:
    """A metric's key has its settings and its version, and nothing of the cell."""
    one = {"_target_": "assay.metrics.localization.PointingGame", "tolerance_px": 15}
    keys = [metric_identity(one, 1), metric_identity(one | {"tolerance_px": 7}, 1), metric_identity(one, 2)]
    assert len(set(map(digest, keys))) == 3
    assert digest(metric_identity(dict(reversed(one.items())), 1)) == digest(keys[0])


def test_a_later_setting_leaves_the_keys_of_before() -> None:
    """`patch_px: null` is what was so before there were patches: results of then are found; a side is another key."""
    before = {"_target_": "assay.metrics.perturbation.Perturbation", "unit": "px", "steps": 40}
    assert metric_identity(before | {"patch_px": None}, 1) == metric_identity(before, 1)
    assert metric_identity(before | {"groups": None}, 1) == metric_identity(before, 1)
    assert metric_identity(before | {"unit": "patch", "patch_px": 16}, 1)["metric"]["patch_px"] == 16


@dataclass(frozen=True)
class Leaf:
    """A part with a VERSION."""

    VERSION: ClassVar[int] = 1


@dataclass(frozen=True)
class Branch:
    """Parts in a field, a mapping and a sequence."""

    one: Leaf = field(default_factory=Leaf)
    by_name: dict[str, Any] = field(default_factory=lambda: {"a": [Leaf(), 3, "text"]})
    VERSION: ClassVar[int] = 7


def test_versions_of_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """By dotted name, at any depth, without the outermost; VERSIONs of before are left out, and so keys stay."""
    assert nested_versions(Branch()) == nested_versions(LRP) == {}
    monkeypatch.setattr(Leaf, "VERSION", 2)
    found = nested_versions(Branch())
    assert found == {"versions": {"one": 2, "by_name.a.0": 2}}
    assert nested_versions([Branch()])["versions"]["0"] == Branch.VERSION
    assert key(nested={}) == key() != key(nested=found)
    assert metric_identity({}, 1) == metric_identity({}, 1, nested={}) != metric_identity({}, 1, nested=found)


def test_moving_a_class_changes_no_key() -> None:
    """Ours by its name wherever it lies, at any depth; a stranger's by its whole path: two may share a name."""
    moved = PARTS["method"] | {"_target_": "assay.methods.attribution.elsewhere.GradCAM"}
    assert key(method=moved) == key()
    rules = [{"rule": {"_target_": f"assay.methods.{place}.ZBox"}} for place in ("one", "other")]
    assert len({key(method=PARTS["method"] | {"rules": [rule]}) for rule in rules}) == 1
    theirs = [PARTS["method"] | {"_target_": f"theirs.{place}.GradCAM"} for place in ("one", "other")]
    assert len({key(), *(key(method=each) for each in theirs)}) == 3
    data = PARTS["dataset"] | {"_target_": "assay.datasets.folders.ImageNet"}
    assert key(dataset=data) == key()


def test_no_two_classes_of_ours_share_a_name() -> None:
    """Names stand for classes in keys: every class and function that a config names is the only one so called."""
    pattern = re.compile(r"_target_: *(assay\.[\w.]+)")
    targets = {match for file in CONF.rglob("*.yaml") for match in pattern.findall(file.read_text())}
    names = [target.rpartition(".")[2] for target in targets]
    assert len(names) > 60
    assert sorted(names) == sorted(set(names))


def test_canonical_json_is_stable() -> None:
    """Sorted keys, no spaces, ASCII; order of keys does not matter, order of lists and types do; nan is refused."""
    value = {"b": [1, 2.5, None, True], "a": {"é": "x"}}
    assert canonical(value) == '{"a":{"\\u00e9":"x"},"b":[1,2.5,null,true]}'
    assert canonical(dict(reversed(value.items()))) == canonical(value)
    assert json.loads(canonical(value)) == value
    assert len({digest(v) for v in ([1, 2], [2, 1], [1.0, 2], ["1", "2"], [[1], 2])}) == 5
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical(math.nan)
    with pytest.raises(TypeError):
        canonical({"path": Path("x")})


def test_keys_do_not_depend_on_the_process() -> None:
    """The same key in a process with another hash seed, equal to what `sha256sum` says of the JSON."""
    assert digest({"model": "resnet50", "seed": 0}) == "1814ec9428bd52d24af2"
    code = "from assay.harness.store.identity import digest; print(digest({'seed': 0, 'model': 'resnet50'}))"
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "1814ec9428bd52d24af2"


# Through a whole config


BASE = ["model.weights=null", "dataset.size=4", "method=[gradcam]", "dry_run=true"]


def keys_of(config: RunConfig, root: Path) -> tuple[str, str]:
    """Keys of the one cell and of its one metric."""
    (cell,) = build_job(config, root).cells
    return cell.store.key, cell.groups["pointing_game"]


def test_what_must_not_matter_does_not(tmp_path: Path) -> None:
    """Batch size, workers, threads, processes, shards, limit, cache, folders, other methods: the same keys."""
    expected = keys_of(compose_config(BASE), tmp_path)
    same = [
        *("compute.batch_size=3", "compute.workers=2", "compute.threads=2", "compute.processes=2"),
        *("compute.shard_size=1", "compute.device=cpu", "limit=2", "cache=off", "results=elsewhere"),
    ]
    assert keys_of(compose_config([*BASE, *same]), tmp_path / "other") == expected
    both = build_job(
        compose_config([*BASE, "method=[center,gradcam]", "metric=[pointing_game,positive_ratio]"]), tmp_path
    )
    cells = {cell.name: cell for cell in both.cells}
    assert (cells["gradcam"].store.key, cells["gradcam"].groups["pointing_game"]) == expected


@pytest.mark.parametrize(
    "change",
    [
        *("model=scenes_resnet", "model.target_layer=features.9", "dataset.size=5", "seed=1", "precision=float64"),
        *("subset_seed=0", "method.gradcam.signed=true", "protocol.targets=top1", "+protocol.smooth.gradcam=0.02"),
    ],
)
def test_what_matters_changes_the_cell(change: str, tmp_path: Path) -> None:
    """One setting at a time; the metric's key stays."""
    expected = keys_of(compose_config(BASE), tmp_path)
    changed = keys_of(compose_config([*BASE, change, "model.weights=null"]), tmp_path)
    assert changed[0] != expected[0]
    assert changed[1] == expected[1]


def test_a_metrics_setting_changes_the_metric_alone(tmp_path: Path) -> None:
    """Adding or changing a metric recomputes nothing else."""
    expected = keys_of(compose_config(BASE), tmp_path)
    changed = keys_of(compose_config([*BASE, "metric.pointing_game.tolerance_px=5"]), tmp_path)
    assert changed[0] == expected[0]
    assert changed[1] != expected[1]


@pytest.mark.parametrize(
    ("part", "method", "metric"),
    [(LRP, "contrastive_lrp", "pointing_game"), (ShapCAM, "gradcam", "shap_cosine")],
)
def test_a_parts_version_is_in_the_keys(
    part: Any, method: str, metric: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a method's part in the cell's, of a metric's in the metric's; nothing is there while the part is as it was."""

    def keys() -> tuple[str, str, bool]:
        (cell,) = build_job(compose_config([*BASE, f"method=[{method}]", f"metric=[{metric}]"]), tmp_path).cells
        return cell.store.key, cell.groups[metric], "versions" in canonical([cell.about, cell.about_groups])

    before = keys()
    monkeypatch.setattr(part, "VERSION", 9)
    assert [one != other for one, other in zip(before, keys(), strict=True)] == [part is LRP, part is ShapCAM, True]
    assert not before[2]


def test_smoothing_another_method_changes_nothing(tmp_path: Path) -> None:
    """A protocol enters a cell by its name and by what reaches the method."""
    expected = keys_of(compose_config(BASE), tmp_path)
    assert keys_of(compose_config([*BASE, "+protocol.smooth.deconvnet=0.5"]), tmp_path) == expected
    assert keys_of(compose_config([*BASE, "protocol=pointing_game"]), tmp_path) != expected


@dataclass(frozen=True)
class _Committee:
    """Reads files: `weights` are places, `larger` an object with a file."""

    weights: tuple[str, ...]
    larger: object
    parts: dict[str, object]
    FILES: ClassVar[frozenset[str]] = frozenset({"weights", "larger"})


@dataclass(frozen=True)
class _Weighted:
    """Whose `weights` are numbers."""

    weights: list[float]


def test_places_of_files_leave_a_method_s_settings() -> None:
    """Where a class says so, at any depth, and nowhere else: weights of another class are numbers, and stay."""
    inner = _Committee(("b.pt",), None, {})
    made = _Committee(("a.pt",), object(), {"committee": inner, "weighted": _Weighted([1.0])})
    larger = {"_target_": "net", "architecture": "vgg", "weights": "c.pt", "sha256": None}
    parts = {"committee": {"weights": ["b.pt"], "larger": None, "parts": {}}, "weighted": {"weights": [1.0]}}
    settings = {"weights": ["a.pt"], "larger": larger, "parts": parts, "form": "x"}
    kept = {"committee": {"parts": {}}, "weighted": {"weights": [1.0]}}
    assert by_content(settings, made) == {
        "larger": {"_target_": "net", "architecture": "vgg"},
        "parts": kept,
        "form": "x",
    }
