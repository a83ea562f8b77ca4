"""GradNorm: how strongly the last layer's weights are drawn towards saying nothing."""

from dataclasses import dataclass
from typing import ClassVar

from assay.harness.detection import DetectorNeeds, Features, State
from torch import Tensor


@dataclass(frozen=True)
class GradNorm:
    """Minus the L1 norm of the gradient of KL(uniform, softmax(z/T)) by the last layer's weights (Huang et al. 2021).

    The gradient is (softmax(z/T) - 1/C) a^T / T, an outer product, so that its norm is that of its factors multiplied:
    |softmax(z/T) - 1/C|_1 |a|_1 / T. No pass backwards is made. The authors' code sums over the classes where the paper
    has their mean: C times as much. Softmax also of networks whose classes do not exclude each other.

    temperature: T.
    """

    temperature: float = 1.0
    VERSION: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature}: choose a number above 0")

    def needs(self) -> DetectorNeeds:
        """Penultimate features."""
        return DetectorNeeds(penultimate=True)

    def score(self, features: Features, state: State) -> Tensor:
        """[N] in float64."""
        features.linear_head()  # whose gradient it is
        surer = (features.logits.double() / self.temperature).softmax(1) - 1 / features.logits.shape[1]
        return -surer.abs().sum(1) * features.tap().double().abs().sum(1) / self.temperature
