"""Some classes of ImageNet, so many images of each: the subsets that networks are fine-tuned and judged on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from assay.harness.seeds import derive_seed

from .decoding import DataError, Reading
from .imagenet import class_names
from .images import LabelledFiles
from .listing import image_files, read_classes

LISTS = Path(__file__).resolve().parent / "class_lists"
TOLD = 10  # classes in a remark
WHERE = "Put ImageNet at <root>/{train,val}/<wnid>/*.JPEG; then dataset.root=/path/to/root"


class ImageNetClasses(LabelledFiles):
    """Images of listed classes from an ImageNet folder; a class index is the place in the list. No boxes.

    The images of a class are put in an order that (seed, class) decides, and a run of them is taken: of one seed, sets
    that start where another has ended share no image.

    Args:
        root: folder that holds `images`.
        images: folder of class folders, relative to root.
        classes: a list that is shipped (`imagenet50`, `imagenet100`), or a text file of wnids, relative to root.
        first, count: which images of a class, in its order; count null: all from the first on.
        seed: of the orders.
        short: `refuse` a class that has fewer than first + count images, or `accept` what it has and say so.
        split: name of the split in tables.
        transform: settings of `datasets.images.Transform`.
        unreadable: images that cannot be read, as of `datasets.folder.Folder`.

    Raises:
        DataError: the folder, the list or a class is missing, or a class has too few images.
    """

    def __init__(
        self,
        root: str,
        images: str,
        classes: str,
        first: int = 0,
        count: int | None = None,
        seed: int = 0,
        short: str = "refuse",
        split: str = "test",
        transform: Mapping[str, Any] | None = None,
        unreadable: str = "refuse",
    ) -> None:
        if short not in ("refuse", "accept"):
            raise DataError(f"short={short!r}: choose refuse or accept")
        if first < 0 or (count is not None and count < 1):
            raise DataError(f"first={first}, count={count}: give a first image from 0 on, and at least one")
        place = Path(root).expanduser()
        wnids = _listed(place, classes)
        folder = place / images
        if missing := [wnid for wnid in wnids if not (folder / wnid).is_dir()]:
            named = f"{', '.join(missing[:3])} ({_of(missing, wnids)})"
            raise DataError(f"no images of {named} at {folder.absolute()}. {WHERE}")
        stop = None if count is None else first + count
        taken = {wnid: _ordered(folder / wnid, seed)[first:stop] for wnid in wnids}
        few = {wnid: len(files) for wnid, files in taken.items() if len(files) < (count or 1)}
        _check(few, wnids, folder, first, count, short)
        files = [(path, label) for label, wnid in enumerate(wnids) for path in sorted(taken[wnid])]
        names = class_names(place, wnids)
        super().__init__(folder, files, names, split, transform, Reading.of("stored", unreadable))
        told = ", ".join(f"{wnid} {found}" for wnid, found in [*few.items()][:TOLD])
        self.remarks = [f"{_of(few, wnids)} have fewer than {count} images here: {told}"] if few else []


def _listed(root: Path, classes: str) -> list[str]:
    """The wnids of a list, shipped or the user's."""
    shipped = LISTS / f"{classes}.txt"
    if shipped.is_file():
        return read_classes(shipped)
    if not (root / classes).is_file():
        known = ", ".join(sorted(path.stem for path in LISTS.glob("*.txt")))
        raise DataError(f"classes={classes}: no file {(root / classes).absolute()}, and no list among {known}")
    return read_classes(root / classes)


def _ordered(folder: Path, seed: int) -> list[Path]:
    """A class' images in the order of the seed."""
    files = image_files(folder)
    order = np.random.default_rng(derive_seed(seed, folder.name)).permutation(len(files))
    return [files[index] for index in order]


def _check(few: Mapping[str, int], wnids: list[str], folder: Path, first: int, count: int | None, short: str) -> None:
    empty = [wnid for wnid, found in few.items() if not found]
    refused = empty if short == "accept" else [*few]
    if refused:
        raise DataError(
            f"{folder / refused[0]} has {few[refused[0]]} images from number {first} on, {count or 'at least 1'} are "
            f"asked for ({_of(refused, wnids)}): add them, or dataset.count=N"
        )


def _of(some: Any, wnids: list[str]) -> str:
    return f"{len(some)} of {len(wnids)} classes"
