"""How near are a method's channel weights to Shapley values?"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import pandas as pd
import torch
from assay.harness.forward import ForwardPass
from assay.harness.seeds import SampleRng
from assay.harness.types import Attribution, Attributor, Batch, FramedMaps, ResultRow
from torch import Tensor

from .subsets import check_subsets, column_rows, parts

STREAM = "shap_cosine reference"  # no method's: SHAP-CAM itself is compared with other draws


@dataclass(frozen=True)
class ShapCosine:
    """Cosine between a class-activation map's coefficients and a reference's (LIFT-CAM, Jung and Oh 2021, Sect. 5.3).

    Undefined for maps without coefficients (Layer-CAM, maps at the input) and for coefficients that are all zero.

    reference: the method whose coefficients are the truth, SHAP-CAM; it explains the layer that the method explains.
    name: of the reference, for the variant column. seed: of its draws.
    subsets: of `metrics.subsets`.
    """

    reference: Any
    name: str
    seed: int = 0
    subsets: Sequence[str] = ("all",)
    VERSION: ClassVar[int] = 1
    PAIRED: ClassVar[tuple[str, ...]] = ("cosine",)
    SUMMARY_SETTINGS: ClassVar[tuple[str, ...]] = ("subsets",)
    # The methods of a call share the forward pass, and so the reference's coefficients on it, by layer.
    _known: "WeakKeyDictionary[ForwardPass, dict[tuple[str, ...], Tensor]]" = field(
        default_factory=WeakKeyDictionary, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        check_subsets(self.subsets)
        if not hasattr(self.reference, "layer"):
            raise ValueError("reference: name a class-activation map, as assay.methods.attribution.shapley.ShapCAM")

    def measure(self, batch: Batch, maps: FramedMaps, forward: ForwardPass) -> dict[str, Tensor]:
        """cosine [P], nan where undefined; difficult."""
        made = maps.attribution
        cosine = torch.full((len(batch.pairs),), torch.nan, device=batch.images.device)
        if made.coefficients is not None and made.layer is not None:
            cosine = _cosine(made.coefficients, self._expected(made.layer, batch, forward))
        return {"cosine": cosine, "difficult": batch.difficult}

    def _expected(self, layer: str, batch: Batch, forward: ForwardPass) -> Tensor:
        """The reference's coefficients [P,K]."""
        known = self._known.setdefault(forward, {})
        wanted = (layer, *batch.sample_ids)
        if wanted not in known:
            reference: Attributor = replace(self.reference, layer=layer)
            targets = forward.network.outputs_of(batch.targets, forward.logits)
            shared = forward
            if layer not in forward.layers:  # a method that finds its coefficients by another pass
                shared = ForwardPass(forward.network, forward.images, (layer,), max_rows=forward.max_rows)
            found: Attribution = reference.attribute(shared, targets, SampleRng.of(self.seed, STREAM, batch))
            if found.coefficients is None:
                raise ValueError(f"reference {self.name} gives no coefficients: name a class-activation map")
            known[wanted] = found.coefficients
        return known[wanted]

    def summarize(self, frame: pd.DataFrame) -> list[ResultRow]:
        """Mean over pairs, median and undefined_pairs of each subset."""
        named = parts(frame, self.subsets)
        return [
            row
            for subset, part in named
            for row in column_rows(part, "cosine", self.name, subset, True, span=(-1.0, 1.0))
        ]


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    """Cosine of the rows of [P,K] with those of [P,K]: float64 [P]; nan where one is zero."""
    one, other = one.double(), other.double()
    return (one * other).sum(1) / (one.norm(dim=1) * other.norm(dim=1))
