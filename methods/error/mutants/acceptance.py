"""Which candidates become mutants: those that keep most of the network's accuracy; found without asking them all."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, log, sqrt
from typing import NamedTuple

import numpy as np
import torch
from assay.harness.network import Network
from assay.harness.training import TrainingSet
from torch import Tensor

from .mutant import Mutant
from .predictions import Prefixes, predictions

BATCH = 100  # images that go through the network at once


@dataclass(frozen=True)
class AccuracyFilter:
    """A candidate is kept if it is right on at least `keep` as many validation images as the network itself (Wang et
    al.; the conductance paper: 90 %).

    What is certain is decided at once: enough right ones, or too few left to come. Beyond that a candidate is rejected
    early, never accepted, by a look behind every `look` images: where the share of right ones among those seen lies so
    far below the wanted one that a sample drawn without repetition would do so with a probability of at most `risk`
    (Hoeffding's bound in Serfling's form, shared by all looks before the last image). look=null: no early rejection.
    """

    keep: float = 0.9
    look: int | None = 500
    risk: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep={self.keep:g}: give a share of the accuracy, above 0 and at most 1")
        if self.look is not None and self.look < 1:
            raise ValueError(f"look={self.look}: give at least 1 image, or null for no early rejection")
        if not 0 < self.risk < 1:
            raise ValueError(f"risk={self.risk:g}: give a probability between 0 and 1")

    def needed(self, right: int) -> int:
        """Right predictions that a mutant must have, of the network's own."""
        return ceil(self.keep * right - 1e-9)  # what a product of floats has too much does not count

    def verdict(self, right: int, seen: int, needed: int, total: int) -> bool | None:
        """Whether a candidate with so many right among the seen is accepted; None: not known yet."""
        if right >= needed:
            return True
        if right + total - seen < needed or self._hopeless(right, seen, needed, total):
            return False
        return None

    def _hopeless(self, right: int, seen: int, needed: int, total: int) -> bool:
        if self.look is None or seen % self.look:
            return False
        unseen, looks = 1 - (seen - 1) / total, (total - 1) // self.look
        return right / seen + sqrt(unseen * log(looks / self.risk) / (2 * seen)) < needed / total


class Validation(NamedTuple):
    """Images that candidates are tried on, in a drawn order: labels [N], images of the first ones by their places, and
    how many of them the network itself gets right."""

    labels: Tensor
    images: Callable[[np.ndarray], Tensor]
    right: int

    @classmethod
    def of(cls, chosen: TrainingSet) -> "Validation":
        """Of the images with a label.

        Raises:
            ValueError: the network is right on none of them.
        """
        labels, predicted = (
            torch.cat(each) for each in zip(*((p.labels, p.predicted) for p in chosen.parts()), strict=True)
        )
        known = np.flatnonzero(labels.numpy() >= 0)
        rows = np.random.default_rng([chosen.seed, len(known)]).permutation(known)
        if not (right := int((labels == predicted)[rows].sum())):
            raise ValueError(
                f"the network is right on none of {len(rows)} validation images with a label: no mutant "
                "can be told from a broken network"
            )
        return cls(labels[rows], lambda places: chosen.images(rows[places]), right)


class Trial(NamedTuple):
    """The candidates that were accepted, by number; how many were tried, and on how many images all together."""

    mutants: dict[int, Mutant]
    tried: int
    asked: int


def accept(
    network: Network,
    prefixes: Prefixes,
    candidate: Callable[[int], Mutant],
    validation: Validation,
    rule: AccuracyFilter,
    wanted: int,
    tries: int,
) -> Trial:
    """The first `wanted` candidates that the rule accepts, in the order of their numbers.

    Candidates are tried side by side, never more than are still wanted, so that they share images and prefixes and
    none is accepted in vain.

    Raises:
        ValueError: fewer among the first `tries`.
    """
    trial = Trial({}, 0, 0)
    while len(trial.mutants) < wanted:
        if trial.tried >= tries:
            raise ValueError(
                f"{len(trial.mutants)} of {wanted} mutants after {tries} candidates: the others keep less than "
                f"{rule.keep:g} of the network's accuracy. Lower the rate, ask for fewer mutants, or raise tries"
            )
        wave = range(trial.tried, min(trial.tried + wanted - len(trial.mutants), tries))
        tried = {number: candidate(number) for number in wave}
        good, asked = _wave(network, prefixes, list(tried.values()), validation, rule)
        found = {number: tried[number] for number, accepted in zip(wave, good, strict=True) if accepted}
        trial = Trial(trial.mutants | found, trial.tried + len(wave), trial.asked + asked)
    return trial


def _wave(
    network: Network, prefixes: Prefixes, candidates: Sequence[Mutant], validation: Validation, rule: AccuracyFilter
) -> tuple[list[bool], int]:
    """Which of the candidates are accepted, and how many images they were asked about all together."""
    verdicts: list[bool | None] = [None] * len(candidates)
    right, needed, total, asked = [0] * len(candidates), rule.needed(validation.right), len(validation.labels), 0
    for places in _batches(total, rule.look):
        undecided = [number for number, verdict in enumerate(verdicts) if verdict is None]
        if not undecided:
            break
        made = predictions(network, prefixes, validation.images(places), [candidates[n] for n in undecided])
        for number, classes in zip(undecided, made, strict=True):
            right[number] += int((classes == validation.labels[places]).sum())
            verdicts[number] = rule.verdict(right[number], int(places[-1]) + 1, needed, total)
        asked += len(undecided) * len(places)
    return [bool(verdict) for verdict in verdicts], asked


def _batches(total: int, look: int | None) -> Iterator[np.ndarray]:
    """Places of at most BATCH images; none goes across a look, so that verdicts do not depend on BATCH."""
    ends = sorted({*range(BATCH, total, BATCH), *range(look or total, total, look or total), total})
    return (np.arange(start, end) for start, end in pairwise([0, *ends]))
