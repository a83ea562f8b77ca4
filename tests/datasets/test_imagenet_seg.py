"""ImageNet-Segmentation on a made-up file in the layout of gtsegs_ijcv.mat (HDF5 with MATLAB's references)."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from assay.datasets.decoding import DataError
from assay.datasets.imagenet_seg import ImageNetSegmentation


def write(path: Path, pictures: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """Images [H,W,3] and masks [H,W], axes reversed as MATLAB writes them, each mask in a cell."""
    with h5py.File(path, "w") as file:
        images = file.create_dataset("/value/img", (len(pictures), 1), dtype=h5py.ref_dtype)
        masks = file.create_dataset("/value/gt", (len(pictures), 1), dtype=h5py.ref_dtype)
        for index, (image, mask) in enumerate(pictures):
            images[index, 0] = file.create_dataset(f"/#refs#/img{index}", data=image.T).ref
            inner = file.create_dataset(f"/#refs#/mask{index}", data=mask.T)
            cell = file.create_dataset(f"/#refs#/cell{index}", (1, 1), dtype=h5py.ref_dtype)
            cell[0, 0] = inner.ref
            masks[index, 0] = cell.ref


def picture() -> tuple[np.ndarray, np.ndarray]:
    """30 rows of 40 columns; the object is its own colour."""
    image, mask = np.full((30, 40, 3), 20, np.uint8), np.zeros((30, 40), np.uint8)
    image[5:15, 10:30], mask[5:15, 10:30] = (250, 100, 0), 1
    return image, mask


@pytest.fixture
def root(tmp_path: Path) -> Path:
    image, mask = picture()
    write(tmp_path / "gtsegs_ijcv.mat", [(image, mask), (image[:, ::-1], mask[:, ::-1])])
    return tmp_path


def test_axes_are_put_right(root: Path) -> None:
    data = ImageNetSegmentation(str(root), transform={"mode": "none"})
    image, mask = picture()
    sample = data[0]
    assert (len(data), sample.id, sample.targets, sample.size0) == (2, "00000", (), (30, 40))
    assert (sample.image * 255).round().byte().permute(1, 2, 0).numpy().tolist() == image.tolist()
    assert isinstance(sample.mask, torch.Tensor)
    assert sample.mask.dtype == torch.bool
    assert sample.mask.int().numpy().tolist() == mask.tolist()
    assert torch.equal(data[1].mask, sample.mask.flip(1))  # type: ignore[arg-type]


def test_masks_at_the_input_size_are_nearest(root: Path) -> None:
    sample = ImageNetSegmentation(str(root), transform={"mode": "squash", "size": 20, "frame": "input"})[0]
    assert tuple(sample.image.shape) == (3, 20, 20)
    assert sample.size0 == (20, 20)
    assert isinstance(sample.mask, torch.Tensor)
    assert sample.mask.sum() == pytest.approx(10 * 20 / 3, abs=10)
    assert sample.mask[6, 10]


def test_index_outside(root: Path) -> None:
    with pytest.raises(IndexError, match="choose 0 to 1"):
        ImageNetSegmentation(str(root))[2]


def test_classes_have_names_on_request(root: Path) -> None:
    assert ImageNetSegmentation(str(root)).classes[999] == "999"
    wnids = [f"n{index:08d}" for index in range(1000)]
    (root / "wnids.txt").write_text("\n".join(wnids))
    assert ImageNetSegmentation(str(root), imagenet_wnids="wnids.txt").classes == wnids
    with pytest.raises(DataError, match="no list of ImageNet's wnids"):
        ImageNetSegmentation(str(root), imagenet_wnids="absent.txt")


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file .*gtsegs_ijcv\.mat.*Put the authors' file"):
        ImageNetSegmentation(str(tmp_path))


def test_a_file_of_another_layout_is_named(tmp_path: Path) -> None:
    path = tmp_path / "gtsegs_ijcv.mat"
    path.write_text("no HDF5")
    with pytest.raises(DataError, match=r"is no gtsegs_ijcv\.mat"):
        ImageNetSegmentation(str(tmp_path))
    path.unlink()
    with h5py.File(path, "w") as file:
        file["/other"] = [1]
    with pytest.raises(DataError, match=r"is no gtsegs_ijcv\.mat"):
        ImageNetSegmentation(str(tmp_path))


def test_a_mask_of_another_size_is_named(tmp_path: Path) -> None:
    image, mask = picture()
    write(tmp_path / "gtsegs_ijcv.mat", [(image, mask[1:])])
    with pytest.raises(DataError, match="image 0 is uint8"):
        ImageNetSegmentation(str(tmp_path))[0]


def test_fingerprint_follows_the_file(root: Path) -> None:
    before = ImageNetSegmentation(str(root)).fingerprint()
    write(root / "gtsegs_ijcv.mat", [picture()])
    assert ImageNetSegmentation(str(root)).fingerprint() != before
