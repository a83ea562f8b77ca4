"""One run from a config to tidy tables: the one road of attributions and of detectors."""

import errno
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from .attribution.run import AttributionRun
from .config import ConfigError, RunConfig
from .detectors.run import DetectorRun
from .engine.costs import Asked, Outcome, Summary
from .engine.determinism import make_deterministic, watched
from .engine.engines import check_engine
from .engine.probe import Say, say
from .engine.rank import Rank
from .engine.request import Request, build_all
from .places import NoPlace, is_remote, place, reach
from .results.jobs import for_status, note_failures, settle
from .results.record import check_rows, finish
from .results.sinks.sending import Later, send
from .store.damage import mended

NEVER = (PermissionError, FileNotFoundError)  # of an object store: no right to write, no such bucket; else it may pass


class Run(Protocol):
    """What a run of either kind can do; nothing is computed or written before `prepare`."""

    @property
    def request(self) -> Request:
        """What was asked for, built."""

    @property
    def run_id(self) -> str:
        """Digest of what was asked for, the same for every invocation of the same request."""

    def describe(self) -> Iterator[str]:
        """The plan, a line a cell, and cautions."""

    def cautions(self) -> Iterator[str]:
        """What the images forbid to conclude."""

    def asked(self) -> Iterator[Asked]:
        """Where the rows of every metric on each set are, or would be; not those of what stands for several sets."""

    def missing(self) -> list[str]:
        """Methods of which something is not in the store."""

    def examine(self, say: Say = say) -> None:
        """Look at the network with the first images, if there is anything to compute; nothing is written before.

        say: hears what is doubtful about the network.

        Raises:
            ConfigError: the network cannot be evaluated as it is.
        """

    def prepare(self, rank: Rank) -> None:
        """Write identities; forget earlier failures, and what `cache=refresh` asks to forget."""

    def compute(self, rank: Rank) -> Outcome:
        """Compute what is missing, together with the other ranks; failures are in the store."""

    def summarise(self) -> Summary:
        """Put the result rows of all that is complete; by one process, when everything is computed."""


def build_run(config: RunConfig, root: Path) -> Run:
    """The run of a config, of the kind that its methods are of; `root`: of the store.

    Raises:
        ConfigError: some methods are detectors, and some attribute.
    """
    methods = build_all(config.method)
    scoring = [name for name, made in methods.items() if hasattr(made, "score")]
    if scoring and len(scoring) < len(methods):
        others = ", ".join(sorted(set(methods) - set(scoring)))
        raise ConfigError(f"{', '.join(scoring)} score images and {others} attribute: evaluate them in two runs")
    wing: type[AttributionRun] | type[DetectorRun] = DetectorRun if scoring else AttributionRun
    return wing.of(Request.of(config, root, methods))


def run(config: RunConfig, overrides: list[str], again: str = "", options: Sequence[str] = ()) -> int:
    """Evaluate a config; returns the exit code (0, or 1 when something failed).

    again: the command that asks for it again; it is kept with the config, and with what fails. options: of it, that
    other commands need as well (`arguments.options_again`).

    Under torchrun rank 0 alone writes tables and says what failed, wherever it failed. Without locks each process does:
    when it ends nothing is missing, and what another one writes is the same.
    """
    started, rank = time.time(), Rank.of(config.compute)
    _check_shared(config, rank)
    check_engine(config, rank)
    make_deterministic(config.compute.threads)
    sinks = build_all(config.sink if rank.number == 0 else {})
    with _store(config) as root:
        made = build_run(config, root)
        if rank.leads:
            print(*made.describe(), sep="\n", flush=True)
        if config.dry_run:
            return 0
        refuse_to_compute(made)
        made.examine()
        if not rank.leads:
            made.compute(rank)
            return 0  # an exit code of 1 would end rank 0 before it has summarised
        if config.cache != "only":
            with _writing(config.results):
                made.prepare(rank)
        with watched() as unstable:
            outcome, summary = complete(made, rank)
        outcome.unstable |= unstable
        left = finish(made.request, made.run_id, summary, outcome, overrides, started, again)
        failures = summary.failures if rank.locked else outcome.failures | summary.failures  # another may have forgiven
        if again and config.cache in ("missing", "refresh"):
            _keep(config, again, failures, summary)
        for name, why in failures.items():
            print(f"FAILED {name}: {why}", file=sys.stderr)
        check_rows(summary, left.rows)
    send(sinks, left, Later(config.results, overrides, options))
    return int(bool(failures))


def _keep(config: RunConfig, again: str, failures: dict[str, str], summary: Summary) -> None:
    """For `status`, which job failed; or that this one no longer does."""
    with for_status():
        if not failures:
            settle(place(config.results), again)
            return
        log = note_failures(place(config.results), again, failures, summary.groups)
        print(f"tracebacks: {log.absolute()}", file=sys.stderr)


def complete(made: Run, rank: Rank) -> tuple[Outcome, Summary]:
    """Compute what is missing, and what turns out to be damaged, and summarise.

    Raises:
        Damaged: with `cache=only`, which computes nothing, or of what was made anew just now.
    """

    def work() -> tuple[Outcome, Summary]:
        return made.compute(rank), made.summarise()

    return work() if made.request.config.cache == "only" else mended(work)


def _check_shared(config: RunConfig, rank: Rank) -> None:
    if rank.world > 1 and config.cache in ("refresh", "off"):
        where = "under torchrun" if rank.locked else f"in worker {rank.number} of {rank.world}"
        raise ConfigError(
            f"cache={config.cache} {where}: the {rank.world} processes meet in the store, so they can neither "
            "clear it nor do without it; use cache=missing, with results=NEW_FOLDER to compute all anew"
        )
    if config.cache != "off":
        check_place(config, config.results)


def check_place(config: RunConfig, results: str) -> None:
    """Raise ConfigError where the place for results has no locks, which are asked for, or does not answer."""
    if config.compute.coordination == "locks" and is_remote(place(results)):
        raise ConfigError(
            f"results={results}: an object store has no locks, by which processes share their work "
            "(compute.coordination=locks): add compute.coordination=none"
        )
    try:
        reach(place(results))
    except NoPlace as error:
        raise ConfigError(f"results={results}: {error}: look at the credentials and the endpoint") from error


@contextmanager
def _writing(results: str) -> Iterator[None]:
    """The first that is written: a folder that cannot be is a wrong request, and no failure of something begun."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC or (is_remote(place(results)) and not isinstance(error, NEVER)):
            raise
        raise ConfigError(
            f"results={results}: nothing can be written there ({error}): give another folder, results=FOLDER, or "
            "cache=only to read what is there"
        ) from error


@contextmanager
def _store(config: RunConfig) -> Iterator[Path]:
    """The store's root; one of its own, gone afterwards, for `cache=off`."""
    if config.cache != "off":
        yield place(config.results) / "store"
        return
    with tempfile.TemporaryDirectory(prefix="assay-") as scratch:
        yield Path(scratch)


def refuse_to_compute(made: Run) -> None:
    """`cache=only`: nothing may be missing."""
    if made.request.config.cache == "only" and (missing := made.missing()):
        raise ConfigError(
            f"cache=only, but results of {', '.join(missing)} are missing: run with cache=missing to compute them"
        )
