"""What a sink is given, and what it must do."""

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd

from ..text import headlines
from ..words import told_overrides


@dataclass(frozen=True, eq=False)
class Left:
    """What one invocation of a run has left.

    name: `<run_id>.<moment>`, as in runs.csv. about: the record of what happened. rows: tidy.
    """

    name: str
    about: Mapping[str, Any]
    rows: pd.DataFrame

    @property
    def title(self) -> str:
        """What people see in a list of runs."""
        return f"{self.about['model']} on {self.about['dataset']}"

    @property
    def has_failed(self) -> bool:
        """Whether some method or metric has."""
        return bool(self.rows["status"].str.startswith("failed").any())

    def parameters(self) -> dict[str, str]:
        """What was asked for: names, conventions, overrides but the sinks', and the key of each method's cell."""
        asked = {name: self.about[name] for name in ("model", "dataset")}
        asked["overrides"] = told_overrides(self.about["overrides"])
        names = ("weights", "split", "protocol", "seed", "precision")
        asked |= {name: ", ".join(sorted(set(map(str, self.rows[name])) - {""})) for name in names}
        asked |= {part: ", ".join(sorted(set(self.rows[part]))) for part in ("method", "metric")}
        cells = self.rows.groupby(["method", "dataset"])["cell_key"].agg(lambda keys: ", ".join(sorted(set(keys))))
        return asked | {f"cell_key/{method}/{data}": key for (method, data), key in cells.items()}

    def environment(self) -> dict[str, str]:
        """What happened to be true: host, device, versions, code, wall time."""
        known = {name: value for name, value in self.about.items() if name not in ("methods", "overrides")}
        return {"record": self.name, **{name: str(value) for name, value in known.items()}}

    def quantities(self) -> dict[str, float]:
        """`METHOD/QUANTITY` of each headline -> value; `... ci_low` and `... ci_high` -> the ends of its interval."""
        made: dict[str, float] = {}
        for row in headlines(self.rows).itertuples():
            name = f"{row.method}/{row.column}"
            ends = {f"{name} ci_low": row.ci_low, f"{name} ci_high": row.ci_high} if row.interval else {}
            if name in made:
                raise ValueError(f"two results are called {name}")
            made |= {each: float(value) for each, value in {name: row.value, **ends}.items()}
        return made


class Sink(Protocol):
    """Where results can be sent. Making one finds out whether that is possible at all, before anything is computed."""

    def send(self, left: Left) -> str:
        """Put it there; says where. What was put already is not put twice. Whatever is raised loses no result."""


@contextmanager
def needed(package: str) -> Iterator[None]:
    """Import a package, and say what to install where that, or something that it does first, lacks one."""
    try:
        importlib.import_module(package)
        yield
    except ImportError as error:
        raise ImportError(f"{package} cannot be used ({error}): pip install 'assay-harness[sinks]'") from error
