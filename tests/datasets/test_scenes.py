"""The drawn scenes: determinism, exact ground truth, the planted patch, settings."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from assay.datasets.scenes import CUE, CUE_PATCH, CUE_SIDE, Scenes
from assay.harness.frames import rasterise_boxes
from assay.harness.types import Sample
from torch import Tensor

SETTINGS: list[dict[str, Any]] = [
    {},
    {"objects": (1, 1), "hard": True},
    {"objects": (3, 3), "cue_share": 1.0},
    {"cue_share": 1.0, "cue_only_targets": True},
]


def masks_of(sample: Sample) -> Mapping[int, Tensor]:
    assert isinstance(sample.mask, Mapping)
    return sample.mask


def patch_pixels() -> Tensor:
    return torch.from_numpy(CUE_PATCH).float() / 255


@pytest.mark.parametrize("settings", SETTINGS)
def test_sample_depends_on_its_index_alone(settings: dict[str, Any]) -> None:
    forward, backward = Scenes("test", 20, **settings), Scenes("test", 40, **settings)
    for a, b in zip(range(20), reversed(range(20)), strict=True):
        assert torch.equal(forward[a].image, backward[a].image)
        assert torch.equal(forward[b].image, backward[b].image)


def test_workers_draw_the_same_bits() -> None:
    dataset = Scenes("test", 8, cue_share=0.5)
    loader: torch.utils.data.DataLoader[Sample] = torch.utils.data.DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_size=None,
        num_workers=1,
        multiprocessing_context="fork",
    )
    for here, there in zip((dataset[i] for i in range(8)), loader, strict=True):
        assert here.id == there.id and here.targets == there.targets
        assert torch.equal(here.image, there.image)


def test_seed_and_split_change_the_image() -> None:
    images = [Scenes(split, 1, seed=seed)[0].image for split in ("train", "val", "test") for seed in (0, 1)]
    assert len({image.numpy().tobytes() for image in images}) == 6


def test_ids_are_unique_across_splits() -> None:
    ids = [Scenes(split, 5)[i].id for split in ("train", "val", "test") for i in range(5)]
    assert len(set(ids)) == len(ids) and "test-000003" in ids


@pytest.mark.parametrize("settings", SETTINGS)
def test_image_and_targets_are_well_formed(settings: dict[str, Any]) -> None:
    dataset = Scenes("test", 30, **settings)
    for sample in (dataset[i] for i in range(30)):
        assert sample.image.shape == (3, 64, 64) and sample.image.dtype == torch.float32
        assert sample.size0 == (64, 64) and sample.image.min() >= 0 and sample.image.max() <= 1
        assert sample.targets == tuple(sorted(set(sample.targets))) != ()
        assert set(sample.targets) == set(sample.boxes) == set(masks_of(sample)) == set(sample.difficult)


@pytest.mark.parametrize("settings", SETTINGS)
def test_boxes_are_tight_around_the_masks(settings: dict[str, Any]) -> None:
    dataset, frame = Scenes("test", 50, **settings), torch.tensor([[64, 64]])
    for sample in (dataset[i] for i in range(50)):
        for label, mask in masks_of(sample).items():
            boxes = sample.boxes[label]
            assert mask.any() and not (mask & ~rasterise_boxes(boxes[None], frame)[0]).any()
            for x0, y0, x1, y1 in boxes.int().tolist():
                inside = mask[y0:y1, x0:x1]
                assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()


def test_masks_of_different_classes_are_disjoint() -> None:
    dataset = Scenes("test", 50, objects=(3, 3), cue_share=1.0, hard=True)
    for sample in (dataset[i] for i in range(50)):
        assert sum(mask.int() for mask in masks_of(sample).values()).max() == 1  # type: ignore[union-attr]


def test_object_stands_out_inside_its_mask() -> None:
    dataset = Scenes("test", 30, objects=(1, 1))
    for sample in (dataset[i] for i in range(30)):
        (mask,) = masks_of(sample).values()
        inside, outside = sample.image[:, mask].mean(1), sample.image[:, ~mask].mean(1)
        assert (inside - outside).norm() > 0.15


def test_cue_is_exact_and_nowhere_else() -> None:
    dataset = Scenes("test", 30, cue_share=1.0, cue_only_targets=True)
    for sample in (dataset[i] for i in range(30)):
        x0, y0, x1, y1 = sample.boxes[CUE][0].int().tolist()
        assert sample.targets == (CUE,) and (x1 - x0, y1 - y0) == (CUE_SIDE, CUE_SIDE)
        assert torch.equal(sample.image[:, y0:y1, x0:x1], patch_pixels())
        assert masks_of(sample)[CUE].sum() == CUE_SIDE**2
        extreme = ((sample.image == 0) | (sample.image == 1)).any(0)
        assert torch.equal(extreme, masks_of(sample)[CUE])


def test_cue_share_and_absence() -> None:
    shares = {share: Scenes("test", 400, cue_share=share) for share in (0.0, 0.25)}
    counts = {share: sum(CUE in d[i].targets for i in range(400)) for share, d in shares.items()}
    assert counts[0.0] == 0 and 70 <= counts[0.25] <= 130


def test_fingerprint_covers_the_settings() -> None:
    variants = [{}, {"seed": 1}, {"hard": True}, {"objects": (1, 2)}, {"cue_share": 0.5}]
    prints = {Scenes("test", 10, **variant).fingerprint() for variant in variants}  # type: ignore[arg-type]
    assert len(prints | {Scenes("val", 10).fingerprint(), Scenes("test", 11).fingerprint()}) == 7
    assert Scenes("test", 10, objects=[1, 3]).fingerprint() == Scenes("test", 10).fingerprint()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "dev"}, r"split='dev'.*train, val, test"),
        ({"size": 0}, r"size=0.*1 or more"),
        ({"objects": (0, 2)}, r"objects=\(0, 2\).*within 1 to 3"),
        ({"cue_share": 1.5}, r"cue_share=1.5.*0 to 1"),
        ({"cue_only_targets": True}, r"cue_only_targets=True.*cue_share=0.0"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scenes(**{"split": "test", "size": 10, **settings})


def test_index_outside_the_split() -> None:
    with pytest.raises(IndexError, match="0 to 9"):
        Scenes("test", 10)[10]
