"""Pictures of samples that the report shows: written beside it by `harness samples`, a JSON file a run, read here.

The report itself makes no maps: it instantiates nothing. Pictures are data URIs, so that a file is all there is.
"""

import base64
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...places import matching
from ...store.damage import unless_damaged
from ...store.sealed import read_json, write_json

FOLDER = "samples"  # below the report's
WEBP = "data:image/webp;base64,"


@dataclass(frozen=True)
class Sample:
    """One pair (image, class): the image, and for each method (by the key of its cell) the map over it.

    Pictures are WebP as data URIs. hits: by the same key, whether the arg-max lies in a box; None without one.
    """

    sample_id: str
    label: str
    image: str
    maps: dict[str, str]
    hits: dict[str, bool | None]


def data_uri(webp: bytes) -> str:
    """A picture as text."""
    return WEBP + base64.b64encode(webp).decode()


def write(report: Path, run_id: str, samples: list[Sample]) -> Path:
    """Put the pictures of a run beside the report; returns their path."""
    path = report / FOLDER / f"{run_id}.json"
    write_json(path, {"samples": [asdict(each) for each in samples]})
    return path


def read(report: Path) -> list[Sample]:
    """Every sample that was pictured; what is damaged is named and left out."""
    return [each for path in matching(report / FOLDER, "*.json") for each in _samples(path)]


def united(samples: Iterable[Sample]) -> list[Sample]:
    """Each pair once, with the maps of every run that drew it; of what two runs drew, the later file's stands."""
    made: dict[str, Sample] = {}
    for each in samples:
        known = made.setdefault(each.sample_id, each)
        made[each.sample_id] = replace(known, maps=known.maps | each.maps, hits=known.hits | each.hits)
    return list(made.values())


def _samples(path: Path) -> Iterator[Sample]:
    made: dict[str, Any] = unless_damaged(lambda: read_json(path)) or {"samples": []}
    yield from (Sample(**each) for each in made["samples"])
