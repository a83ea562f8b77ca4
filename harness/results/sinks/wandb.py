"""Results as runs of Weights & Biases: config, summary, and the tidy rows as a table."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from ...places import is_remote, place
from .contract import Left, needed


@dataclass(frozen=True)
class WandB:
    """A run of Weights & Biases for each invocation; sent again, it takes its own place.

    project, entity: where; entity None: the account's default. mode: offline keeps it below folder, for `wandb sync`.
    folder: of wandb's own files, in `wandb/`.
    """

    project: str = "assay"
    entity: str | None = None
    mode: Literal["online", "offline"] = "online"
    folder: str = "results"

    def __post_init__(self) -> None:
        with needed("wandb"):
            is_known = self.mode == "offline" or _has_key()
        if is_remote(place(self.folder)):
            raise ValueError(f"folder={self.folder}: wandb keeps its files on this machine: sink.wandb.folder=FOLDER")
        if not is_known:
            raise ValueError("no account is known: `wandb login` (or WANDB_API_KEY), or sink.wandb.mode=offline")

    def send(self, left: Left) -> str:
        """Log it."""
        import wandb

        quantities = left.quantities()
        Path(self.folder).mkdir(parents=True, exist_ok=True)
        run = wandb.init(
            project=self.project,
            entity=self.entity,
            mode=self.mode,
            dir=self.folder,
            id=re.sub(r"\W", "-", left.name),
            name=left.title,
            config={**left.parameters(), "environment": left.environment()},
            settings=wandb.Settings(  # its machine info holds the command line with all credentials, user and folders
                console="off", silent=True, disable_git=True, disable_code=True, x_disable_machine_info=True
            ),
        )
        place = run.url or run.settings.sync_dir
        run.log({"results": wandb.Table(dataframe=_plain(left.rows), allow_mixed_types=True)})
        run.summary.update(quantities)
        run.finish(exit_code=int(left.has_failed))
        return f"{place}" + ("" if self.mode == "online" else " (offline: `wandb sync` sends it)")


def _has_key() -> bool:
    import wandb

    return bool(wandb.api.api_key)


def _plain(rows: pd.DataFrame) -> Any:
    """With None for what is missing."""
    return rows.astype(object).where(rows.notna(), None)
