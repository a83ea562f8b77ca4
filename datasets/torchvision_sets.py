"""Data sets that torchvision reads and can fetch: CIFAR-10/100, SVHN, DTD (Textures), Places365.

Each function builds one from `root`; with `download` torchvision fetches what is not there. torchvision checks
the files' published checksums before it reads them.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from assay.harness.types import Sample
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from .decoding import DataError, Reading
from .images import LabelledFiles, Transform
from .listing import check_files, image_files, read_names, require_files

Settings = Mapping[str, Any] | None
PLACES_LIST = (
    "github.com/jfc43/informative-outlier-mining, datasets/ood_datasets/places365/test_subset/places365_test_list.txt"
)


class LabelledArrays:
    """Images in memory: uint8 [N,H,W,3] and labels [N]; no boxes."""

    def __init__(
        self, images: NDArray[np.uint8], labels: ArrayLike, classes: Sequence[str], split: str, transform: Settings
    ) -> None:
        self.images, self.labels = images, np.asarray(labels, dtype=np.int64)
        self.classes, self.split = classes, split
        self.transform = Transform.of(transform)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        framed = self.transform(Image.fromarray(self.images[index]))
        return Sample(f"{self.split}/{index:06d}", framed.image, (int(self.labels[index]),), framed.size0)

    def fingerprint(self) -> str:
        """Contents of the images and labels."""
        digest = hashlib.sha256(np.ascontiguousarray(self.images).data)
        digest.update(self.labels.data)
        return digest.hexdigest()[:20]


def cifar10(root: str, split: str = "test", download: bool = False, transform: Settings = None) -> LabelledArrays:
    """CIFAR-10 from <root>/cifar-10-batches-py; split train or test."""
    return _cifar("CIFAR10", "cifar-10-batches-py", root, split, download, transform)


def cifar100(root: str, split: str = "test", download: bool = False, transform: Settings = None) -> LabelledArrays:
    """CIFAR-100 with its 100 fine labels from <root>/cifar-100-python; split train or test."""
    return _cifar("CIFAR100", "cifar-100-python", root, split, download, transform)


def _cifar(name: str, folder: str, root: str, split: str, download: bool, transform: Settings) -> LabelledArrays:
    import torchvision.datasets

    _check_split(split, ("train", "test"))
    made = _fetched(
        lambda at: getattr(torchvision.datasets, name)(at, train=split == "train", download=download),
        root,
        download,
        f"Put the python version of {name} at <root>/{folder}",
    )
    return LabelledArrays(made.data, made.targets, made.classes, split, transform)


def svhn(
    root: str, split: str = "test", download: bool = False, transform: Settings = None, select: str = "all"
) -> LabelledArrays:
    """SVHN's cropped digits from <root>/<split>_32x32.mat; split train, test or extra; class 0 is the digit 0.

    select: `all`, or `first_1000_per_digit` in file order: the 10,000 test images of the CIFAR benchmarks.
    """
    from torchvision.datasets import SVHN

    _check_split(split, ("train", "test", "extra"))
    if select not in ("all", "first_1000_per_digit"):
        raise DataError(f"select={select!r}: choose all or first_1000_per_digit")
    made = _fetched(
        lambda at: SVHN(at, split=split, download=download),
        root,
        download,
        f"Put the cropped digits (format 2) at <root>/{split}_32x32.mat",
    )
    images, labels = made.data.transpose(0, 2, 3, 1), np.asarray(made.labels)
    if select != "all":
        chosen = first_of_each(labels, 1000)
        images, labels = images[chosen], labels[chosen]
    return LabelledArrays(np.ascontiguousarray(images), labels, [str(digit) for digit in range(10)], split, transform)


def first_of_each(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Indices of the first `count` entries of each label, ascending."""
    each = [np.flatnonzero(labels == label)[:count] for label in np.unique(labels)]
    return np.sort(np.concatenate(each))


def dtd(
    root: str,
    split: str = "all",
    partition: int = 1,
    download: bool = False,
    transform: Settings = None,
    expected_count: int | None = None,
    unreadable: str = "refuse",
) -> LabelledFiles:
    """Describable Textures; `all` is every image, as out-of-distribution tests use it: expected_count of them.

    The images lie at <root>/dtd/images/<class>, or <root>/dtd/dtd/images where torchvision put them. The lists of
    train, val and test (partition 1 to 10) lie beside, in labels/<split><partition>.txt; `all` needs no lists.
    unreadable: images that cannot be read, as of `datasets.folder.Folder`.
    """
    _check_split(split, ("all", "train", "val", "test"))
    hint = "Put the folders of dtd-r1.0.1 at <root>/dtd/{images,labels}"
    if download:
        from torchvision.datasets import DTD

        _fetched(lambda at: DTD(at, download=True), root, download, hint)
    base = Path(root).expanduser() / "dtd"
    base = base / "dtd" if (base / "dtd").is_dir() else base
    if not (base / "images").is_dir():
        raise DataError(f"no images at {(base / 'images').absolute()}. {_or_download(hint)}")
    classes = sorted(path.name for path in (base / "images").glob("[!.]*") if path.is_dir())
    if split == "all":
        files = image_files(base / "images")
        check_files(base / "images", files, expected_count, None, "DTD")
    else:
        listed = base / "labels" / f"{split}{partition}.txt"
        require_files([listed], _or_download(hint))
        files = [base / "images" / line for line in read_names(listed)]
        require_files(files, _or_download(hint))
    labelled = [(file, classes.index(file.parent.name)) for file in files]
    return LabelledFiles(base / "images", labelled, classes, split, transform, Reading.of("stored", unreadable))


def places365(
    root: str,
    split: str = "val",
    small: bool = True,
    download: bool = False,
    transform: Settings = None,
    list: str | None = None,
    expected_count: int | None = None,
    unreadable: str = "refuse",
) -> LabelledFiles:
    """Places365 from <root>/{val,test}_{256,large} and the lists of its devkit; `small` takes the 256x256 images.

    split: val, test (no labels), train-standard or train-challenge.
    list: a text file relative to root with the names of the images to take, without labels; needs no devkit.
        expected_count of them.
    unreadable: images that cannot be read, as of `datasets.folder.Folder`.
    """
    splits = ("val", "test", "train-standard", "train-challenge")
    _check_split(split, splits)
    reading = Reading.of("stored", unreadable)
    if list is not None:
        folder = f"{split}_{'256' if small else 'large'}"
        return _listed(Path(root).expanduser(), list, folder, transform, expected_count, reading)
    from torchvision.datasets import Places365

    hint = "Put the devkit's lists at <root>/*.txt and the images at <root>/<split>_<256 or large>"
    made = _fetched(
        lambda at: Places365(at, split=split, small=small, download=download and not _has_images(at, split, small)),
        root,
        download,
        hint,
    )
    files = [(Path(path), label) for path, label in made.imgs]
    require_files([path for path, _ in files], _or_download(hint))
    names = sorted(made.class_to_idx, key=made.class_to_idx.__getitem__)
    return LabelledFiles(Path(root).expanduser(), files, names, split, transform, reading)


def _listed(
    root: Path, listed: str, folder: str, transform: Settings, expected: int | None, reading: Reading
) -> LabelledFiles:
    """The images of <root>/<folder> that a list names by their file names, in its order."""
    require_files(
        [root / listed], f"It names the images to take, one a line; those of the CIFAR benchmarks: {PLACES_LIST}"
    )
    files = [root / folder / Path(line).name for line in read_names(root / listed)]
    check_files(root / folder, files, expected, None, f"the list {listed}")
    require_files(files, f"Put the images that {root / listed} names at {root / folder}")
    return LabelledFiles(root, [(path, None) for path in files], (), folder.split("_")[0], transform, reading)


def _has_images(root: str, split: str, small: bool) -> bool:
    """Whether the images are unpacked (torchvision refuses to fetch them a second time)."""
    size, variant = "256" if small else "large", split.removeprefix("train-")
    return (Path(root) / (f"data_{size}_{variant}" if split.startswith("train") else f"{split}_{size}")).is_dir()


def _check_split(split: str, valid: Sequence[str]) -> None:
    if split not in valid:
        raise DataError(f"split={split!r}: choose one of {', '.join(valid)}")


def _or_download(hint: str) -> str:
    return f"{hint}; then dataset.root=/path/to/root. Or dataset.download=true: torchvision fetches it from its home."


def _fetched(make: Callable[[str], Any], root: str, download: bool, hint: str) -> Any:
    """torchvision's data set, made with the root; its errors say what to put where."""
    place = Path(root).expanduser()
    if download:
        place.mkdir(parents=True, exist_ok=True)
    try:
        return make(str(place))
    except (RuntimeError, OSError) as error:  # not found, wrong checksum, no connection
        raise DataError(f"{place.absolute()}: {error}. {_or_download(hint)}") from error
