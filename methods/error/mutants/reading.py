"""The reading that detectors of label changes share: what each mutant predicts for an image."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from assay.harness.detection import ReadingNeeds, State, fitted
from assay.harness.forward import ForwardPass
from assay.harness.network import Network
from assay.harness.seeds import SampleRng
from assay.harness.training import TrainingSet
from torch import Tensor, nn

from .acceptance import AccuracyFilter, Validation, accept
from .mutant import Mutation, packed, unpacked
from .operators import Name
from .predictions import Prefixes, Shared
from .sequential import Sprt
from .sites import Unit, sites_of


@dataclass(frozen=True)
class MutantPredictions:
    """The classes that `count` mutants of the network predict: int16 [N,count].

    operator, unit, rate: see `Mutation`. keep, look, risk: see `AccuracyFilter`; mutants are chosen on the validation
    set. tries: candidates after which to give up. stop: of each image no more mutants are asked than this test needs
    to end, and -1 stands for the others; null: all are asked. Candidates are seeded by their number and the run's
    seed, so that fewer mutants are the first of more. Kept are the changed weights alone.
    """

    operator: Name = "NAI"
    unit: Unit = "filter"
    rate: float = 0.01
    count: int = 100
    keep: float = 0.9
    look: int | None = 500
    risk: float = 1e-3
    tries: int = 1000
    stop: Sprt | None = None
    VERSION: ClassVar[int] = 3

    def __post_init__(self) -> None:
        if not 1 <= self.count <= self.tries:
            raise ValueError(f"count={self.count}, tries={self.tries}: give at least 1 mutant, and as many tries")
        _ = (self.mutation, self.rule)

    @property
    def mutation(self) -> Mutation:
        """How candidates are drawn."""
        return Mutation(self.operator, self.unit, self.rate)

    @property
    def rule(self) -> AccuracyFilter:
        """Which of them are kept."""
        return AccuracyFilter(self.keep, self.look, self.risk)

    def needs(self) -> ReadingNeeds:
        """A validation set to choose mutants on; they are drawn."""
        return ReadingNeeds(prepared_on="validation", draws=True)

    def about(self, network: Network) -> dict[str, Any]:
        """Its settings.

        Raises:
            ValueError: the network has no convolution.
        """
        if not any(isinstance(module, nn.Conv2d) for module in network.module.modules()):
            raise ValueError(f"{type(network.module).__name__} has no 2-d convolution: there is nothing to mutate")
        return asdict(self)

    def prepare(self, images: TrainingSet) -> State:
        """The mutants (see `packed`), and what it took: n_tried candidates on n_asked images, all together.

        Raises:
            ValueError: the rate is no mutation in this network, or too few candidates keep its accuracy.
        """
        network = images.network
        sites = sites_of(network, images.images(np.zeros(1, dtype=np.int64)))
        self.mutation.check(sites)
        made = accept(
            network,
            Prefixes(network, sites),
            lambda number: self.mutation.candidate(sites, images.seed, number),
            Validation.of(images),
            self.rule,
            self.count,
            self.tries,
        )
        tallies = {"n_tried": torch.tensor(made.tried), "n_asked": torch.tensor(made.asked)}
        return packed(list(made.mutants.values()), sites) | {"numbers": torch.tensor(list(made.mutants))} | tallies

    def read(self, forward: ForwardPass, rng: SampleRng, state: State) -> Tensor:
        """int16 [N,count]."""
        fitted(self, state, "entries", "values")
        network = forward.network
        sites = sites_of(network, forward.images[:1])
        shared = Shared(network, Prefixes(network, sites), forward.images, unpacked(state, sites, self.unit))
        if self.stop is None:
            return torch.stack([shared.classes(number) for number in range(len(shared))], 1)
        return _until(self.stop, shared, network.scores(forward.logits).argmax(1).cpu())


def _until(stop: Sprt, shared: Shared, predicted: Tensor) -> Tensor:
    """Votes [B,count] of mutants asked in their order, -1 where an image's test had ended."""
    votes = torch.full((len(predicted), len(shared)), -1, dtype=torch.int16)
    changed, going = torch.zeros_like(predicted), torch.arange(len(predicted))
    for number in range(len(shared)):
        votes[going, number] = shared.classes(number, going)
        changed += (votes[:, number] >= 0) & (votes[:, number] != predicted)
        going = going[~stop.ended(stop.ratio(changed[going], torch.full_like(going, number + 1)))]
        if not len(going):
            break
    return votes
