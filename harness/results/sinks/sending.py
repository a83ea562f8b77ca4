"""Sending what runs have left, so that nothing which happens there changes a result."""

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...config import ConfigError, suggest
from ...places import matching
from ...store.sealed import read_json
from ..kept_rows import FILE, ROWS, holders
from ..reading import read_table
from ..terminal import wrapped
from ..tidy import COLUMNS
from ..typed import TYPES
from ..words import without_credentials
from .contract import Left, Sink


@dataclass(frozen=True)
class Later:
    """The command that sends a record later, to a sink by its name.

    overrides: of the command that sends now; the settings of the sink are among them. options: of it, too
    (`arguments.options_again`).
    """

    results: str
    overrides: Sequence[str]
    options: Sequence[str]

    def command(self, record: str, sink: str) -> str:
        """For a shell."""
        settings = [word for word in self.overrides if word.lstrip("+").startswith(f"sink.{sink}.")]
        words = [record, f"sink=[{sink}]", *settings, f"results={self.results}"]
        return shlex.join(["python", "-m", "harness", "publish", *self.options, *words])


def send(sinks: Mapping[str, Sink], left: Left, later: Later) -> list[str]:
    """Send it to each sink; names of those that failed, which are told of on standard error."""
    failed = []
    for name, sink in sinks.items():
        try:
            print(wrapped(f"sink {name}: {sink.send(left)}"))
        except Exception as error:  # of somebody else's code and server: whatever it is, the results stay
            again = later.command(left.name, name)
            print(f"sink {name}: not sent ({_said(error)}); the results are complete; later: {again}", file=sys.stderr)
            failed.append(name)
    return failed


def _said(error: Exception) -> str:
    lines = without_credentials(str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def records(results: Path, wanted: Sequence[str]) -> list[str]:
    """Names of the records below a folder of results that are wanted; of none, the last one of each run.

    Raises:
        ConfigError: there is no such record, or none at all, or another invocation's rows have taken the place of its.
    """
    known = sorted(f"{path.parent.name}.{path.stem}" for path in matching(results / "runs", "*/*.json"))
    if not known:
        raise ConfigError(f"no runs below {results.absolute()}: compute some with python run.py")
    if unknown := [name for name in wanted if name not in known]:
        raise ConfigError(suggest(unknown[0], known, "record of runs.csv"))
    runs = sorted({name.partition(".")[0] for name in wanted or known})
    whole = {run: [f"{run}.{moment}" for moment in holders(results / "runs" / run)] for run in runs}
    for name in wanted or runs:
        _check_rows(name, whole[name.partition(".")[0]])
    return list(wanted) or [names[-1] for names in whole.values()]


def _check_rows(name: str, whole: Sequence[str]) -> None:
    """name: of a record, or of a run. whole: records of the run whose rows are there."""
    if not whole:
        raise ConfigError(
            f"the rows of run {name.partition('.')[0]} are no record's: run it again, which makes both anew"
        )
    if "." in name and name not in whole:
        raise ConfigError(
            f"the rows of record {name} are gone: a later invocation of its run has put its own in their place; "
            f"publish that one: {whole[-1]}"
        )


def left_by(results: Path, names: Sequence[str]) -> Iterator[Left]:
    """What records are of, with their rows (`records` has looked whose are there)."""
    texts = [name for name in COLUMNS if name not in TYPES]
    for name in names:
        run, _, moment = name.partition(".")
        folder = results / "runs" / run
        about = read_json(folder / f"{moment}.json")
        about.pop(ROWS, None)
        yield Left(name, about, read_table(folder / FILE, texts))
