"""Class groups: an ImageNet network read as a classifier of another data set, through a committed table.

A group is a class of the other data set (dog) and its members are the ImageNet classes that are cases of it (118
breeds). The tables in harness/networks/class_tables/ follow WordNet where the data set's own labelling rules do not say
otherwise, and keep to whole objects: parts (car wheel, wing), scenes (bookshop) and contents (espresso) are no
members. A class without a member, as `person`, has no group.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ..config import ROOT

SHIPPED = ROOT / "harness" / "networks" / "class_tables"
COLUMNS = ["group", "wnid", "imagenet_index", "name"]


def read_class_map(path: str | Path, classes: Sequence[str]) -> list[list[int]]:
    """The members (ImageNet indices, ascending) of each class: one list a class, in the order of `classes`.

    A class without a group has an empty list.

    Args:
        path: a CSV with the columns group, wnid, imagenet_index, name; below the checkout or as given.
        classes: the data set's class names.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a column is missing, a group is no class, or an index is in two groups or outside 0..999.
    """
    table = _read(path)
    if unknown := sorted(set(table["group"]) - set(classes)):
        raise ValueError(f"{path}: groups {unknown} are no classes of the data set; its classes: {', '.join(classes)}")
    if twice := sorted(table.loc[table["imagenet_index"].duplicated(), "imagenet_index"]):
        raise ValueError(f"{path}: ImageNet indices {twice} appear twice: a class can be in one group only")
    if not table["imagenet_index"].between(0, 999).all():
        raise ValueError(f"{path}: an imagenet_index is outside 0..999")
    members = table.groupby("group")["imagenet_index"].apply(sorted).to_dict()
    return [[int(index) for index in members.get(name, [])] for name in classes]


def _read(path: str | Path) -> pd.DataFrame:
    found = next((p for p in (Path(path).expanduser(), ROOT / path) if p.is_file()), None)
    if found is None:
        shipped = ", ".join(str(each.relative_to(ROOT)) for each in sorted(SHIPPED.glob("*.csv")))
        raise FileNotFoundError(f"class map {str(path)!r} not found; the shipped ones: {shipped}")
    table = pd.read_csv(found, keep_default_na=False)
    if missing := [column for column in COLUMNS if column not in table.columns]:
        raise ValueError(f"{path} lacks the columns {', '.join(missing)}; a class map has {', '.join(COLUMNS)}")
    return table
