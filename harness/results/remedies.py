"""The commands that make damaged files anew, as the records of runs tell."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from ..places import read_bytes
from ..store.damage import unless_damaged
from ..store.sealed import read_json
from ..store.store import SAMPLES, SCORE


def remedies(damaged: Iterable[Path]) -> list[str]:
    """Of each damaged file the last command on record that gave rows of its cell and metric; each command once.

    What is no cell's (features, fits) has none.
    """
    commands = (_command(path) for path in damaged)
    return list(dict.fromkeys(command for command in commands if command))


def _command(path: Path) -> str:
    store = next((folder for folder in path.parents if (folder.parent / "runs").is_dir()), path.parent)
    runs, keys = store.parent / "runs", set(path.relative_to(store).parts[:-1]) - {SAMPLES, SCORE}
    if store == runs or not keys:  # a record, which nothing makes anew
        return ""
    shown = [file for file in runs.glob("*/results.csv") if _names(file, keys)]
    records = sorted((record for file in shown for record in file.parent.glob("*.json")), key=lambda path: path.name)
    kept = [unless_damaged(partial(read_json, record)) for record in records]
    said = [str(record["overrides"]) for record in kept if record]
    return f"python run.py {said[-1]}" if said else ""


def _names(file: Path, keys: set[str]) -> bool:
    """Whether a run's rows are of this cell and metric."""
    text = read_bytes(file).decode(errors="replace")
    return all(key in text for key in keys)
