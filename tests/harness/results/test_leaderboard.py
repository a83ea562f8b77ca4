"""OpenOOD's leaderboard beside ours: figures as printed, each row a detector or a reason, pages of a bare clone."""

from pathlib import Path

import pandas as pd
import pytest
from assay.harness.config import groups
from assay.harness.results import tables
from assay.harness.results.tables.entries import NAMES, PATTERNS
from assay.harness.results.tables.filling import fill_table
from assay.harness.results.tables.missing import missing_lines
from assay.harness.results.tables.spec import names

ROOT = Path(__file__).resolve().parents[3]
PUBLISHED = ROOT / "results" / "published"
BOARDS = [name for name in names() if name.startswith("openood_")]
EMPTY = pd.DataFrame(columns=[*NAMES, *PATTERNS, "status", "x"])


def board(name: str) -> pd.DataFrame:
    """A published file, numbers as text where it has them so."""
    return pd.read_csv(PUBLISHED / f"{name}.csv", dtype={"value": str, "spread": str}).fillna("")


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("openood_imagenet", {"resnet50": 31, "swin_t": 19, "vit_b_16": 19}),
        ("openood_imagenet_fs", {"resnet50": 26, "swin_t": 17, "vit_b_16": 16}),
        ("openood_cifar10", {"cifar_resnet18": 32}),
        ("openood_cifar100", {"cifar_resnet18": 32}),
    ],
)
def test_every_cross_entropy_row_is_there(name: str, rows: dict[str, int]) -> None:
    """As many as `grep ^CrossEntropy` finds of these networks in the leaderboard's CSV; three figures each, all between
    0 and 1, no figure twice."""
    frame = board(name)
    assert frame.groupby("model")["row"].nunique().to_dict() == rows
    assert len(frame) == 3 * sum(rows.values())
    assert frame["value"].astype(float).between(0, 1).all()
    assert not frame.duplicated(["row", "model", "dataset", "stat"]).any()


@pytest.mark.parametrize(
    ("name", "cell", "near", "far", "accuracy"),
    [
        ("openood_imagenet", "resnet50 MSP", "0.7602", "0.8523", "0.7618"),
        ("openood_imagenet", "resnet50 SCALE", "0.8136", "0.9653", "0.7618"),
        ("openood_imagenet", "resnet50 AdaSCALE-A", "0.8442", "0.9727", "0.7618"),
        ("openood_imagenet", "resnet50 CombOOD", "0.9522", "0.9024", "0.7618"),
        ("openood_imagenet", "resnet50 NCI", "0.7869", "0.9553", "0.7619"),
        ("openood_imagenet", "vit_b_16 ASH", "0.5321", "0.5156", "0.8114"),
        ("openood_imagenet", "vit_b_16 RMDS", "0.8009", "0.9260", "0.8114"),
        ("openood_imagenet", "swin_t DICE", "0.4848", "0.6044", "0.8159"),
        ("openood_imagenet_fs", "resnet50 MSP", "0.6079", "0.7232", "0.5435"),
        ("openood_imagenet_fs", "resnet50 AdaSCALE-A", "0.6710", "0.8930", "0.5435"),
        ("openood_imagenet_fs", "vit_b_16 RMDS", "0.6599", "0.8219", "0.6149"),
        ("openood_imagenet_fs", "swin_t GradNorm", "0.5469", "0.4302", "0.6005"),
        ("openood_cifar10", "cifar_resnet18 KNN", "0.9064", "0.9296", "0.9506"),
        ("openood_cifar100", "cifar_resnet18 GEN", "0.8131", "0.7968", "0.7725"),
    ],
)
def test_figures_are_the_printed_ones(name: str, cell: str, near: str, far: str, accuracy: str) -> None:
    """Read off the leaderboard's CSV by eye, to the last digit."""
    frame, (model, label) = board(name), cell.split()
    found = frame[(frame["model"] == model) & (frame["row_label"] == label)]
    assert found["dataset"].tolist()[:2] == ["average near", "average far"]
    assert found["value"].tolist() == [near, far, accuracy]


def test_spreads_of_three_networks_are_kept() -> None:
    """CIFAR's cells are `a ± b`, read by eye; ImageNet's have no spread."""
    cifar = board("openood_cifar10").set_index(["row_label", "dataset"])["spread"]
    assert cifar["OpenGAN", "average far"] == "0.1551" and cifar["MDS", "average near"] == "0.0240"
    assert cifar.ne("").all() and board("openood_imagenet")["spread"].eq("").all()


@pytest.mark.parametrize("name", BOARDS)
def test_a_row_is_a_detector_of_ours_or_says_why_not(name: str) -> None:
    """A method of conf/method, or `published only` with a reason that names the row."""
    known = groups()["method"]
    for entry in fill_table(name, EMPTY).entries:
        if entry.external:
            assert entry.note.startswith(f"{entry.label}: "), entry.label
        else:
            assert entry.asked["method"] in known, entry.label


@pytest.mark.parametrize("name", BOARDS)
def test_a_command_fills_each_panel_and_the_dispute_is_named(name: str) -> None:
    """No obstacle (a choice or setting that does not exist); the issue by its number."""
    table = fill_table(name, EMPTY)
    lines = missing_lines(table)
    assert len(lines) == len(table.panels) and all("`python run.py experiment=" in line for line in lines)
    assert not [line for line in lines if "not yet" in line]
    assert "#307" in " ".join(table.notes)


@pytest.mark.parametrize("name", BOARDS)
def test_a_bare_clone_has_the_same_page(name: str, tmp_path: Path) -> None:
    """An empty folder of results: the committed page, from published figures and kept rows alone."""
    tables.regenerate([name], tmp_path)
    for kind in ("md", "csv"):
        made = (tmp_path / "tables" / f"{name}.{kind}").read_bytes()
        assert made == (ROOT / "results/tables" / f"{name}.{kind}").read_bytes()
