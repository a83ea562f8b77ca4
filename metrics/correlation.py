"""How maps and numbers go together, row by row."""

import torch
from scipy.stats import rankdata
from torch import Tensor


def correlation(one: Tensor, other: Tensor) -> Tensor:
    """Pearson's correlation of the rows of [P,n] with those of [P,n]: float64 [P]; nan where one is constant."""
    one, other = (values.double() - values.double().mean(1, keepdim=True) for values in (one, other))
    return (one * other).sum(1) / (one.norm(dim=1) * other.norm(dim=1))


def spearman(one: Tensor, other: Tensor) -> Tensor:
    """Rank correlation of maps [P,h,w] with maps [P,h,w]: float64 [P]; nan where one is constant."""
    ranked = [torch.from_numpy(rankdata(each.flatten(1).cpu().numpy(), axis=1)) for each in (one, other)]
    return correlation(*ranked).to(one.device)
