"""The files of a bundle: made from the results anew, so that they are of one moment and agree."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ...config import ConfigError
from ...places import matching
from ..composed import told_config
from ..environment import environment
from ..report.page import rendered
from ..tables.files import own_tables
from ..tidy import collect, csv_of, runs_table, table_files
from . import people
from .hiding import WHO, hidden, without_paths
from .per_sample import sample_files
from .readme import commands, readme


@dataclass(frozen=True)
class Asked:
    """What is to be bundled.

    floors: of the report. samples: per-sample tables, too. anonymous: nothing says whose.
    allowed: words that say nothing of anybody.
    """

    results: Path
    floors: Sequence[str] = ()
    samples: bool = False
    anonymous: bool = False
    allowed: Sequence[str] = ()


def contents(asked: Asked) -> dict[str, bytes]:
    """Path in the bundle -> bytes; the same for the same results and environment.

    Raises:
        ConfigError: there are no results, or a file would say what is to be hidden.
    """
    frame = collect(asked.results)
    if frame.empty:
        raise ConfigError(f"no results below {asked.results.absolute()}: compute some with python run.py")
    every = runs_table(asked.results / "runs")
    rows, runs = hidden(frame), hidden(every, asked.anonymous)
    files = {f"results/{name}": data for name, data in table_files(rows).items()}
    files["results/runs.csv"] = csv_of(runs)
    files |= {f"tables/{name}": data for name, data in own_tables(asked.results)}
    made = str(every["started"].max()) if "started" in every else ""
    files["report/index.html"] = rendered(rows, asked.results / "report", runs, made, asked.floors).encode()
    files |= dict(_configs(asked.results))
    here = environment(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    files |= _environment(here, asked.anonymous)
    files |= dict(sample_files(asked.results / "store")) if asked.samples else {}
    files["README.md"] = readme(files, runs, commands(asked.results, runs), here, asked.anonymous).encode()
    people.check(people.texts(files), people.places(asked.results, every, asked.anonymous), asked.allowed)
    if asked.anonymous:
        free = people.written(files, {"results/results.csv": rows, "results/runs.csv": runs})
        people.check(free, people.names(every), asked.allowed)
    return files


def _configs(results: Path) -> Iterator[tuple[str, bytes]]:
    for path in matching(results / "runs", "*/*.yaml"):
        yield f"configs/{path.parent.name}.{path.stem}.yaml", without_paths(told_config(path.read_text())).encode()


def _environment(here: Mapping[str, str], anonymous: bool) -> dict[str, bytes]:
    """Of the process that makes the bundle: versions of all that is installed; what a run records of its machine."""
    installed = {f"{each.metadata['Name']}=={each.version}" for each in metadata.distributions()}
    said: dict[str, Any] = {name: value for name, value in here.items() if not (anonymous and name in WHO)}
    return {
        "environment/requirements.txt": ("\n".join(sorted(installed, key=str.lower)) + "\n").encode(),
        "environment/environment.json": (json.dumps(said, indent=1) + "\n").encode(),
    }
