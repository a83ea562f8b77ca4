"""Does a score tell in-distribution images from others? FPR at 95 % recall, AUROC, AUPR, detection error."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import pandas as pd
from assay.harness.counts import Statistics
from assay.harness.curves import (
    RESAMPLES,
    Ends,
    estimate,
    no_rate,
    recalls,
    roc_ends,
    roc_statistics,
)
from assay.harness.detection import AVERAGE
from assay.harness.inside import Inside
from assay.harness.seeds import derive_seed
from assay.harness.stats import Estimate
from assay.harness.types import ResultRow
from numpy.typing import NDArray


class Convention(NamedTuple):
    """A result row's stat (`{}`: the recall in percent), what it is called in `harness.curves`, and its variant."""

    stat: str
    source: str
    variant: str
    higher_is_better: bool
    headline: bool = False


CONVENTIONS = (
    Convention("fpr{}_id_pos", "fpr_id_pos", "index,strict", False, headline=True),
    Convention("fpr{}_ood_pos", "fpr_ood_pos", "first_at_least", False),
    Convention("auroc", "auroc", "ties=half", True, headline=True),
    Convention("aupr_in", "aupr_in", "trapezoid", True),
    Convention("aupr_in", "ap_in", "average_precision", True),
    Convention("aupr_out", "aupr_out", "trapezoid", True),
    Convention("aupr_out", "ap_out", "average_precision", True),
    Convention("detection_error", "detection_error", "pooled", False),
)
FPRS = ("fpr_id_pos", "fpr_ood_pos")  # whose thresholds are to reach a recall


class Reached(NamedTuple):
    """The recall that a rate's threshold reaches, of how many images, and why the rate is none; "" if it is one."""

    recall: float
    n: int
    why: str


class Measured(NamedTuple):
    """One OOD set: its statistics, their resamples and ends, the number of its images; or why there are none.

    reached: of each false positive rate.
    """

    values: dict[str, float]
    resampled: Statistics
    ends: Ends
    n: int
    reached: dict[str, Reached]
    why: str = ""

    @classmethod
    def without(cls, n: int, why: str) -> "Measured":
        """No statistics."""
        return cls({}, {}, {}, n, {}, why)

    def lacks(self, source: str) -> str:
        """Why there is no such statistic; "" if there is."""
        return self.why or (self.reached[source].why if source in self.reached else "")


@dataclass(frozen=True)
class OODDetection:
    """The papers' OOD tables, an OOD set at a time and averaged over the sets; definitions in `harness.curves`.

    `fpr95_id_pos` is the FPR95 of LINe, DICE, ReAct and ODIN (in-distribution images are the positives), and
    `fpr95_ood_pos` that of OpenOOD: on one table of scores they can be .64 and .99. n counts the OOD images.
    Beside each stands the recall that its threshold reaches (`tpr_at_fpr95_id_pos`, n counts its images); where equal
    scores keep that far from `tpr`, the rate is undefined (`harness.curves.no_rate`).
    Intervals resample in-distribution and OOD images (percentile bootstrap); the average's resamples share the
    in-distribution images between the sets. Where no resample differs from another: `harness.curves.roc_ends`.

    tpr: share of the positives that must be found; resamples: of the bootstrap.
    groups: name -> names of OOD sets (near, far): each has an average of its own, named `average near`; null: none.
    """

    tpr: float = 0.95
    resamples: int = RESAMPLES
    groups: Mapping[str, Sequence[str]] | None = None
    VERSION: ClassVar[int] = 2
    SUMMARY_SETTINGS: ClassVar[tuple[str, ...]] = ("groups",)  # a row's key says what it is the average of
    PARTNERS: ClassVar[Literal["ood"]] = "ood"

    def __post_init__(self) -> None:
        if not 0.5 <= self.tpr < 1:
            raise ValueError(f"tpr={self.tpr}: give a share of at least .5 and below 1")
        if self.resamples < 2:
            raise ValueError(f"resamples={self.resamples}: give at least 2")
        if not isinstance(self.groups or {}, Mapping):
            raise ValueError(f"groups={self.groups}: give each group its name, as {{near: [cifar100]}}")
        for name, sets in (self.groups or {}).items():
            _check_group(name, sets)

    @property
    def averages(self) -> dict[str, tuple[str, ...]]:
        """`average near` -> the sets of group `near`."""
        return {f"{AVERAGE} {name}": tuple(sets) for name, sets in (self.groups or {}).items()}

    def summarize(self, test: pd.DataFrame, partners: Mapping[str, pd.DataFrame]) -> dict[str, list[ResultRow]]:
        """Rows of each OOD set and of `average`, the unweighted mean over the sets; then of each group's average."""
        return self.told_apart(Inside.of(test), partners)

    def told_apart(self, inside: Inside, partners: Mapping[str, pd.DataFrame]) -> dict[str, list[ResultRow]]:
        """The same for in-distribution images of whichever sets."""
        sets = {name: self._measure(inside, name, partners[name]) for name in sorted(partners)}
        averages = {name: _average_of(chosen, sets) for name, chosen in self.averages.items()}
        every = {**sets, AVERAGE: _average(sets), **averages}
        return {name: list(self._rows(measured)) for name, measured in every.items()}

    def _measure(self, inside: Inside, name: str, table: pd.DataFrame) -> Measured:
        known, unknown = inside.scores, table["score"].to_numpy(float)
        try:
            values = roc_statistics(known, unknown, self.tpr)
            resampled = inside.bootstrap(unknown, derive_seed(name), self.tpr, self.resamples)
        except ValueError as error:
            return Measured.without(len(table), f"{len(known)} images against {len(table)}: {error}")
        ends = roc_ends(inside.once(), unknown, self.tpr)
        return Measured(values, resampled, ends, len(table), self._reached(known, unknown))

    def _reached(self, negatives: NDArray[np.float64], positives: NDArray[np.float64]) -> dict[str, Reached]:
        images = dict(zip(FPRS, (len(negatives), len(positives)), strict=True))
        found = recalls(negatives, positives, self.tpr)
        return {name: Reached(r, images[name], no_rate(r, images[name], self.tpr)) for name, r in found.items()}

    def _rows(self, measured: Measured) -> Iterator[ResultRow]:
        for stat, source, variant, higher, headline in CONVENTIONS:
            name = stat.format(f"{100 * self.tpr:g}")
            row = ResultRow(variant, name, None, measured.n, higher_is_better=higher, headline=headline)
            if why := measured.lacks(source):
                yield row.undefined(why)
            else:
                yield replace(row, **_estimate(measured, source).fields())
            if source in FPRS:
                yield _recall_row(
                    ResultRow(variant, f"tpr_at_{name}", None, measured.n, headline=False), measured, source
                )


def _recall_row(row: ResultRow, measured: Measured, source: str) -> ResultRow:
    row = replace(row, higher_is_better=None, headline=False)
    if measured.why:
        return row.undefined(measured.why)
    recall, n, _ = measured.reached[source]
    return replace(row, value=recall, n=n)


def _estimate(measured: Measured, source: str) -> Estimate:
    found, order = measured.resampled[source], measured.resampled["auroc"]
    return estimate(measured.values[source], found, "two_sample_bootstrap", measured.n, measured.ends[source], order)


def _check_group(name: str, sets: Sequence[str]) -> None:
    given = f"groups.{name}={sets}"
    if not str(name).strip() or isinstance(sets, str) or not sets:
        raise ValueError(
            f"{given}: give a group a name and a list of OOD sets, as groups.near=[cifar100,tiny_imagenet]"
        )
    if len(set(sets)) < len(sets):
        raise ValueError(f"{given}: a set is there twice, and would count twice: name each once")


def _average_of(chosen: Sequence[str], sets: Mapping[str, Measured]) -> Measured:
    """The mean over a group."""
    if absent := [name for name in chosen if name not in sets]:
        return Measured.without(0, f"no scores of {', '.join(absent)}")
    return _average({name: sets[name] for name in chosen})


def _average(sets: Mapping[str, Measured]) -> Measured:
    """The unweighted mean over the sets, resample by resample."""
    n = sum(each.n for each in sets.values())
    if not sets:
        return Measured.without(n, "no OOD set was chosen: ood=[NAME,...]")
    if absent := [name for name, each in sets.items() if each.why]:
        return Measured.without(n, f"no value for {', '.join(absent)}")
    sources = next(iter(sets.values())).values
    values = {source: float(np.mean([each.values[source] for each in sets.values()])) for source in sources}
    resampled = {source: np.mean([each.resampled[source] for each in sets.values()], axis=0) for source in sources}
    ends = {source: _mean_ends([each.ends[source] for each in sets.values()]) for source in sources}
    reached = {source: _mean_reached([each.reached[source] for each in sets.values()]) for source in FPRS}
    return Measured(values, resampled, ends, n, reached)


def _mean_reached(reached: Sequence[Reached]) -> Reached:
    """The mean recall; no rate where one of the sets has none."""
    whys = [each.why for each in reached if each.why]
    recall, n = (float(np.mean([each[field] for each in reached])) for field in (0, 1))
    return Reached(recall, round(n), "; ".join(dict.fromkeys(whys)))


def _mean_ends(ends: Sequence[tuple[float, float]]) -> tuple[float, float]:
    low, high = np.mean(ends, axis=0)
    return float(low), float(high)
