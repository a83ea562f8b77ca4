"""Results as runs of MLflow: parameters, metrics, tags, and the tidy rows as files."""

import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..tidy import put_tables
from ..words import without_credentials
from .contract import Left, needed

TAG = "assay.record"
LONGEST_NAME, LONGEST_TEXT = 250, 5000  # characters of a name, and of a parameter or tag, that every store takes
AT_ONCE = 100  # parameters in a request, of which MLflow takes no more


@dataclass(frozen=True)
class MLflow:
    """A run of MLflow for each invocation.

    uri: the tracking server, `sqlite:///FILE`; None: MLFLOW_TRACKING_URI, else what MLflow does without one.
    experiment: made where it is not there.
    """

    uri: str | None = None
    experiment: str = "assay"

    def __post_init__(self) -> None:
        with needed("mlflow"):
            from mlflow.exceptions import MlflowException

            try:
                self._client()
            except MlflowException as error:
                raise ValueError(without_credentials(f"uri={self.uri}: {str(error).splitlines()[0]}")) from error

    def send(self, left: Left) -> str:
        """Log it; a run that an earlier try left unfinished is made anew."""
        client, quantities = self._client(), named(left.quantities())
        home = client.get_experiment_by_name(self.experiment)
        where = home.experiment_id if home else client.create_experiment(self.experiment)
        for known in client.search_runs([where], filter_string=f"tags.`{TAG}` = '{left.name}'"):
            if known.info.status in ("FINISHED", "FAILED"):
                return self._told(known.info.run_id, "has it already")
            client.delete_run(known.info.run_id)
        started = int(datetime.fromisoformat(left.about["started"]).timestamp() * 1000)
        made = client.create_run(where, started, {TAG: left.name}, left.title).info.run_id
        self._log(client, made, quantities, left)
        client.set_terminated(made, "FAILED" if left.has_failed else "FINISHED")
        return self._told(made, "holds it")

    def _client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(self.uri)

    def _told(self, run: str, what: str) -> str:
        place = f" at {without_credentials(self.uri)}" if self.uri else ""
        return f"run {run} of experiment {self.experiment}{place} {what}"

    def _log(self, client: Any, run: str, quantities: Mapping[str, float], left: Left) -> None:
        from mlflow.entities import Metric, Param, RunTag

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, 0) for name, value in quantities.items()]
        params = [Param(name, cut(value)) for name, value in named(left.parameters()).items()]
        tags = [RunTag(f"assay.{name}", cut(value)) for name, value in left.environment().items()]
        for kind, every in {"metrics": metrics, "params": params, "tags": tags}.items():
            for first in range(0, len(every), AT_ONCE):
                client.log_batch(run, **{kind: every[first : first + AT_ONCE]})
        with tempfile.TemporaryDirectory(prefix="assay-") as folder:
            put_tables(left.rows, Path(folder))
            client.log_artifacts(run, folder)


def named(values: Mapping[str, Any]) -> dict[str, Any]:
    """Under names that MLflow takes: letters, digits, `_-. :/`; two that would become one get a digest."""
    plain = list(map(valid, values))
    return {
        name if plain.count(name) == 1 else f"{name[: LONGEST_NAME - 9]}-{_digest(key)}": value
        for name, (key, value) in zip(plain, values.items(), strict=True)
    }


def valid(name: str) -> str:
    """A name that MLflow takes, as near to this one as may be; part of a path, too."""
    parts: Iterator[str] = (re.sub(r"[^\w\-. :]|[^\x00-\x7f]", "_", part).strip(".") for part in name.split("/"))
    made = "/".join(part or "_" for part in parts)
    return made if len(made) <= LONGEST_NAME else f"{made[: LONGEST_NAME - 9]}-{_digest(name)}"


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:8]


def cut(text: str) -> str:
    """As much as every store takes; results.csv has the whole."""
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 4]} ..."
