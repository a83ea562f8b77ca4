"""Sinks of tests: one that keeps what it is sent in a folder, and one whose server is away."""

import json
from dataclasses import dataclass
from pathlib import Path

from assay.harness.results.sinks.contract import Left


@dataclass(frozen=True)
class Folder:
    """A file a record."""

    folder: str

    def send(self, left: Left) -> str:
        path = Path(self.folder) / f"{left.name}.json"
        path.parent.mkdir(exist_ok=True, parents=True)
        said = {"quantities": left.quantities(), "parameters": left.parameters(), "environment": left.environment()}
        path.write_text(json.dumps(said))
        return str(path)


@dataclass(frozen=True)
class Away:
    """Nobody answers."""

    def send(self, left: Left) -> str:
        raise ConnectionError("no route to host\nand a long story")
