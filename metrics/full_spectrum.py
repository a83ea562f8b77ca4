"""Does a score tell images of unknown kinds from those of the classes, as they are and shifted?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import pandas as pd
from assay.harness import stats
from assay.harness.curves import RESAMPLES
from assay.harness.detection import AVERAGE
from assay.harness.inside import Inside
from assay.harness.types import ResultRow

from .ood import OODDetection


@dataclass(frozen=True)
class FullSpectrum:
    """OOD detection where shifted images of known classes are in distribution (Zhang et al. 2023, OpenOOD v1.5).

    Their images join the test set's, and all quantities are those of `OODDetection` on what is joined: an image counts
    once, so that a large shifted set weighs more. Among the rows of `average` is the network's accuracy on the joined
    set, as OpenOOD reports it. Intervals draw an image and its shifted versions together.

    shifted: sets of the run that count as in distribution; each is of the test set's classes (`known: true`).
    groups, tpr, resamples: as of `OODDetection`; its averages are over the other sets.
    """

    shifted: Sequence[str]
    groups: Mapping[str, Sequence[str]] | None = None
    tpr: float = 0.95
    resamples: int = RESAMPLES
    VERSION: ClassVar[int] = 1
    SUMMARY_SETTINGS: ClassVar[tuple[str, ...]] = ("groups",)  # a row's key says what it is the average of
    PARTNERS: ClassVar[Literal["ood"]] = "ood"

    def __post_init__(self) -> None:
        if isinstance(self.shifted, str) or not self.shifted or len({*self.shifted}) < len(self.shifted):
            raise ValueError(
                f"shifted={self.shifted}: list sets of the test set's classes, each once, as "
                "shifted=[corrupted_noise,corrupted_blur]"
            )
        _ = self._ood  # its settings are checked

    @property
    def _ood(self) -> OODDetection:
        return OODDetection(self.tpr, self.resamples, self.groups)

    @property
    def averages(self) -> dict[str, tuple[str, ...]]:
        """`average near` -> the sets of group `near`."""
        return self._ood.averages

    def summarize(self, test: pd.DataFrame, partners: Mapping[str, pd.DataFrame]) -> dict[str, list[ResultRow]]:
        """Rows of each set that is not shifted, of `average` and of each group's average."""
        shifted = {name: partners[name] for name in self.shifted}
        others = {name: table for name, table in partners.items() if name not in shifted}
        rows = self._ood.told_apart(Inside.of(test, shifted), others)
        return {**rows, AVERAGE: [*rows[AVERAGE], _accuracy([test, *shifted.values()])]}


def _accuracy(tables: Sequence[pd.DataFrame]) -> ResultRow:
    """The share of the images with a label that are predicted right; versions of one image are one draw."""
    images = pd.concat(tables, ignore_index=True)
    images = images[images["label"] >= 0]
    row = ResultRow("top1", "accuracy", None, len(images), higher_is_better=True, headline=False)
    if images.empty:
        return row.undefined("no image has a label")
    share = stats.proportion(~images["is_error"].to_numpy(bool), images["image_id"].to_numpy())
    return ResultRow("top1", "accuracy", **share.fields(), higher_is_better=True, headline=False)
