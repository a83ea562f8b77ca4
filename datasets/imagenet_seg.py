"""ImageNet-Segmentation (Guillaumin, Küttel, Ferrari, IJCV 2014): 4276 images with a foreground mask."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from assay.harness.types import Sample
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from .decoding import DataError
from .imagenet import CLASS_COUNT, read_wnids
from .images import Transform
from .listing import files_fingerprint, require_files

HINT = (
    "Put the authors' file gtsegs_ijcv.mat (ImageNet auto-annotation with segmentation propagation, Guillaumin et "
    "al., IJCV 2014) at <root>/<file>; then dataset.root=/path/to/root."
)


class ImageNetSegmentation:
    """Photographs with one foreground mask, and no label: the class is the network's (protocol.targets=top1).

    Args:
        root: folder that holds the file.
        file: the MATLAB 7.3 (HDF5) file, relative to root.
        imagenet_wnids: text file with ImageNet's 1000 wnids, relative to root, to name the classes; or null.
        split: name of the split in tables.
        transform: settings of `datasets.images.Transform`; the papers measure in the frame of the input.

    Raises:
        DataError: the file is missing, or is not of this layout.
    """

    def __init__(
        self,
        root: str,
        file: str = "gtsegs_ijcv.mat",
        imagenet_wnids: str | None = None,
        split: str = "all",
        transform: Mapping[str, Any] | None = None,
    ) -> None:
        self.root, self.split = Path(root).expanduser(), split
        self.file = self.root / file
        self.transform = Transform.of(transform)
        require_files([self.file], HINT)
        self.classes: Sequence[str] = (
            read_wnids(self.root / imagenet_wnids) if imagenet_wnids else [str(index) for index in range(CLASS_COUNT)]
        )
        self.size = _count(self.file)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.size:
            raise IndexError(f"index {index} is outside {self.file}: choose 0 to {self.size - 1}")
        pixels, mask = _read(self.file, index)
        framed = self.transform(Image.fromarray(pixels).convert("RGB"))
        return Sample(f"{index:05d}", framed.image, (), framed.size0, mask=framed.mask(mask))

    def fingerprint(self) -> str:
        """Name and size of the file."""
        return files_fingerprint(self.root, [self.file])


def _count(path: Path) -> int:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            images, masks = file["/value/img"], file["/value/gt"]
            if images.shape != masks.shape:
                raise DataError(f"{path} has {images.shape[0]} images and {masks.shape[0]} masks. {HINT}")
            return int(images.shape[0])
    except (OSError, KeyError) as error:
        raise DataError(f"{path} is no gtsegs_ijcv.mat ({error}). {HINT}") from error


def _read(path: Path, index: int) -> tuple[NDArray[np.uint8], Tensor]:
    """Pixels [H,W,3] and mask [H,W]; MATLAB's axes come reversed, and each mask lies in a cell of its own.

    The file is opened for each image: an open HDF5 file must not be shared between loader processes.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            pixels = np.asarray(file[file["/value/img"][index, 0]]).T
            cell = file[file["/value/gt"][index, 0]]
            mask = np.asarray(file[cell[0, 0]]).T > 0
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path}: image {index} is not in the layout of gtsegs_ijcv.mat ({error}). {HINT}") from error
    if pixels.dtype != np.uint8 or pixels.shape[:2] != mask.shape:
        raise DataError(
            f"{path}: image {index} is {pixels.dtype} {pixels.shape}, its mask {tuple(mask.shape)}: fetch it again"
        )
    return np.ascontiguousarray(pixels), torch.from_numpy(np.ascontiguousarray(mask))
