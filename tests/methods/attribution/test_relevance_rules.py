"""Rules of relevance propagation against slow re-implementations on the dense matrix of the layer (Zennit's test idea).

The references follow the definitions on W [J,I], the Jacobian of the layer without its bias, one sample at a time.
float64; tolerance 1e-9 of the largest relevance.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from assay.methods.attribution.relevance import rules
from assay.methods.attribution.relevance.agf import Factorised
from assay.methods.attribution.relevance.hedge import Hedge, pool_positive
from assay.methods.attribution.relevance.rap import Official, Paper, absolute_contributions
from assay.methods.attribution.relevance.relevance_cam import Exciting
from assay.methods.attribution.relevance.rsp import Sectional
from assay.methods.attribution.relevance.rules import (
    Affine,
    AffineRule,
    AlphaBeta,
    Epsilon,
    Excitation,
    Flat,
    Gamma,
    Inhibition,
    ZBox,
)
from conftest import assert_close
from torch import Tensor

TOLERANCE = 1e-9


class Case:
    """A layer with inputs of a kind, its dense matrix, and relevance of both signs at its output."""

    def __init__(self, name: str, signs: str) -> None:
        generator = torch.Generator().manual_seed(0)
        random = partial(torch.randn, generator=generator, dtype=torch.float64)
        shape, weight, apply = LAYERS[name]
        self.x = random(3, *shape)
        if signs == "non-negative":
            self.x = self.x.clamp(min=0)  # as after a ReLU: with exact zeros
        self.layer = Affine(apply, random(*weight), random(weight[0]))
        output = apply(self.x, self.layer.weight, self.layer.bias)
        self.relevance = random(*output.shape)
        self.support = self.matrix(torch.ones_like(self.layer.weight))

    def matrix(self, weight: Tensor) -> Tensor:
        """[J,I] of the layer with these weights."""
        jacobian = torch.autograd.functional.jacobian(lambda x: self.layer.apply(x[None], weight, None)[0], self.x[0])
        return jacobian.reshape(-1, self.x[0].numel())

    def expected(self, reference: Callable[..., Tensor]) -> Tensor:
        """reference(x [I], W [J,I], b [J], R [J], case) of each sample."""
        w = self.matrix(self.layer.weight)
        assert self.layer.bias is not None
        bias = self.layer.bias.view(-1, *[1] * (self.relevance.ndim - 2)).expand(self.relevance.shape[1:]).flatten()
        rows = [reference(x.flatten(), w, bias, r.flatten(), self) for x, r in zip(self.x, self.relevance, strict=True)]
        return torch.stack(rows).view_as(self.x)


def _convolution(x: Tensor, w: Tensor, b: Tensor | None, **options: Any) -> Tensor:
    return F.conv2d(x, w, b, **options)


LAYERS: dict[str, tuple[tuple[int, ...], tuple[int, ...], Callable[..., Tensor]]] = {
    "linear": ((7,), (5, 7), F.linear),
    "3x3": ((2, 4, 4), (3, 2, 3, 3), partial(_convolution, padding=1)),
    "3x3 stride 2": ((2, 5, 5), (4, 2, 3, 3), partial(_convolution, stride=2)),
    "1x1": ((3, 3, 3), (4, 3, 1, 1), partial(_convolution)),
    "depthwise": ((4, 4, 4), (4, 1, 3, 3), partial(_convolution, padding=1, groups=4)),
}


@pytest.fixture(params=["signed", "non-negative"])
def signs(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=LAYERS)
def case(request: pytest.FixtureRequest, signs: str) -> Case:
    return Case(request.param, signs)


# References


def divided(numerator: Tensor, denominator: Tensor) -> Tensor:
    """0/0 := 0 (nothing is shared where there is no contribution)."""
    return torch.where(denominator == 0, 0, numerator / torch.where(denominator == 0, 1, denominator))


def shared(contributions: Tensor, r: Tensor, denominator: Tensor | None = None) -> Tensor:
    """R_i = Sum_j c_ij / (Sum_i' c_i'j) R_j: contributions [J,I], r [J] -> [I]."""
    total = contributions.sum(1) if denominator is None else denominator
    return (contributions * divided(r, total)[:, None]).sum(0)


def margin(z: Tensor, epsilon: float) -> Tensor:
    """z + epsilon mean|z| sign(z), sign(0) = 1."""
    return torch.stack([v + epsilon * z.abs().mean() * (1 if v >= 0 else -1) for v in z])


def positive(v: Tensor) -> Tensor:
    return torch.where(v > 0, v, 0)


def negative(v: Tensor) -> Tensor:
    return torch.where(v < 0, v, 0)


def ref_epsilon(x: Tensor, w: Tensor, b: Tensor, r: Tensor, case: Case, epsilon: float, bias: bool) -> Tensor:
    z = x * w
    return shared(z, r, margin(z.sum(1) + (b if bias else 0), epsilon))


def ref_gamma(x: Tensor, w: Tensor, b: Tensor, r: Tensor, case: Case, gamma: float, bias: bool) -> Tensor:
    z, b = x * w, b if bias else torch.zeros_like(b)
    result = torch.zeros_like(x)
    for choose, part in ((z.sum(1) + b >= 0, positive), (z.sum(1) + b < 0, negative)):
        enlarged, offset = z + gamma * part(z), b + gamma * part(b)
        result += shared(enlarged, r * choose, margin(enlarged.sum(1) + offset, 1e-6))
    return result


def ref_alpha_beta(
    x: Tensor, w: Tensor, b: Tensor, r: Tensor, case: Case, alpha: float, beta: float, bias: bool
) -> Tensor:
    z, b = x * w, b if bias else torch.zeros_like(b)
    up, down = positive(z), negative(z)
    excited = shared(up, r, up.sum(1) + positive(b))
    return alpha * excited - beta * shared(down, r, down.sum(1) + negative(b))


def ref_zbox(x: Tensor, w: Tensor, b: Tensor, r: Tensor, case: Case) -> Tensor:
    return shared(x * w - x.min() * positive(w) - x.max() * negative(w), r)


def ref_flat(x: Tensor, w: Tensor, b: Tensor, r: Tensor, case: Case) -> Tensor:
    return shared(case.support, r)


def ref_excitation(x: Tensor, w: Tensor, b: Tensor, r: Tensor, case: Case) -> Tensor:
    return shared(x * positive(w), r)


def ref_inhibition(x: Tensor, w: Tensor, b: Tensor, r: Tensor, case: Case) -> Tensor:
    return shared(x * positive(-w), r)


def ref_rap_official(x: Tensor, w: Tensor, b: Tensor, r: Tensor, case: Case) -> Tensor:
    result = torch.zeros_like(x)
    for part, up, down in ((positive(x), positive(w), negative(w)), (negative(x), negative(w), positive(w))):
        zp, zn = part * up, -part * down  # magnitudes of the exciting and inhibiting contributions
        if not part.any():
            continue
        rho = divided(zn.sum(1), zp.sum(1) + zn.sum(1))
        if case.layer.is_dense:
            c = shared(zp, r) + shared(zn, r * rho)
        else:
            c = shared(zp, positive(r)) + shared(zn, negative(r) + r * rho)
        result += torch.where(c != 0, c - (c.sum() - r.sum()) / max(1, int((c != 0).sum())), 0)
    return result


def ref_rap_paper(x: Tensor, w: Tensor, b: Tensor, r: Tensor, case: Case) -> Tensor:
    zp, zn = positive(x * w), -negative(x * w)
    rho = divided(zn.sum(1), zp.sum(1) + zn.sum(1))
    second = shared(zn, rho * r)
    psi = second.sum() / max(1, int((x != 0).sum()))
    return shared(zp, r) + second - torch.where(x != 0, psi, 0)


def ref_hedge(x: Tensor, w: Tensor, b: Tensor, r: Tensor, case: Case, gamma: float, terms: str = "C A U Psi") -> Tensor:
    p = divided(positive(r), positive(r).sum())
    n = divided(-negative(r), -negative(r).sum())
    pointwise = case.layer.is_pointwise
    c = shared(positive(x) * w.abs(), (1 if pointwise else gamma) * p - n)
    if not pointwise and "Psi" in terms:
        c = torch.where(c != 0, c - 1 / max(1, int((c != 0).sum())), 0)
    a = shared((x > 0) * w.abs(), p)
    u = -shared((x <= 0) * w.abs(), n)
    return ("C" in terms) * c + ("A" in terms) * a + ("U" in terms) * u


def ref_last(x: Tensor, w: Tensor, b: Tensor, g: Tensor, case: Case) -> Tensor:
    """One logit y = g (W x + b): z_i = its contributions, r_i = z_i (s + b) / s, then |r_i| Sum r / Sum|r|."""
    z, offset = (g[:, None] * w * x).sum(0), (g * b).sum()
    r = z * (z.sum() + offset) / z.sum()
    return r.abs() * r.sum() / r.abs().sum()


def ref_rsp(x: Tensor, w: Tensor, b: Tensor, r: Tensor, case: Case) -> Tensor:
    """V by the derivative of Sum R (w x) for the layer's weights."""
    x = positive(x)
    parts = []
    for section in (positive(r), positive(-r)):
        weight = torch.zeros_like(case.layer.weight).requires_grad_()
        output = case.layer.apply(x.view(1, *case.x.shape[1:]), weight, None)
        (grown,) = torch.autograd.grad((output.flatten() * section).sum(), weight)
        parts.append(shared(x * case.matrix(grown), section))
    if case.layer.is_pointwise:
        return parts[0] - parts[1]
    c = 2 * (parts[0] - parts[1])
    return torch.where(c != 0, c - r.sum() / max(1, int((c != 0).sum())), 0)


def ref_exciting(x: Tensor, w: Tensor, b: Tensor, r: Tensor, case: Case, biases: int) -> Tensor:
    up = positive(x * w)
    return shared(up, r, up.sum(1) + (0 if case.layer.is_dense else biases * b))


def given(relevance: Tensor) -> Tensor:
    """A gradient of the output for AGF, of both signs: any function of the relevance."""
    return torch.sin(7 * relevance)


def agf_rule(x: Tensor, layer: Affine, relevance: Tensor) -> Tensor:
    """AGF's, as the engine calls it: with the gradient of the output."""
    return Factorised()(x, layer._replace(gradient=given(relevance)), relevance)


def ref_factorised(v: Tensor, favoured: Tensor) -> Tensor:
    """F of v [c,n], with mean_c C [n]: position by position."""
    h = torch.sigmoid(10 * v / v.max())
    means = [h[:, chosen].sum(1) / max(1, int(chosen.sum())) for chosen in (favoured < 0, favoured > 0)]
    basis = torch.stack(means, 1)
    inverse = torch.inverse(basis.T @ basis + torch.eye(2, dtype=v.dtype))
    weights = [positive(inverse @ basis.T @ h[:, n]) for n in range(h.shape[1])]
    return torch.stack([positive(each[1] - each[0]) for each in weights])


def ref_agf(x: Tensor, w: Tensor, b: Tensor, r: Tensor, case: Case) -> Tensor:
    c = shared(x.abs() * w.abs(), r)
    if case.layer.is_pointwise:
        return c
    g, shape = given(r), (len(case.x[0]), -1)
    m = positive((x * (g @ w)).view(shape).mean(0))
    mean = c.view(shape).mean(0)
    f_x, f_dx = (ref_factorised(v.view(shape), mean) for v in (x, (g * (r != 0)) @ w))
    inside = (f_x + m / m.max()) / (1 + torch.exp(-c.view(shape)))
    residue = (inside + f_dx).flatten() + shared(w.abs(), r)
    residue = torch.where(c != 0, residue, 0)
    return c + residue - torch.where(c != 0, residue.sum() / int((c != 0).sum()), 0)


RULES: dict[str, tuple[AffineRule, Callable[..., Tensor]]] = {
    "epsilon": (Epsilon(1e-6), partial(ref_epsilon, epsilon=1e-6, bias=True)),
    "epsilon .25": (Epsilon(0.25, bias=False), partial(ref_epsilon, epsilon=0.25, bias=False)),
    "gamma": (Gamma(0.25), partial(ref_gamma, gamma=0.25, bias=True)),
    "gamma 1": (Gamma(1, bias=False), partial(ref_gamma, gamma=1, bias=False)),
    "alpha1beta0": (AlphaBeta(), partial(ref_alpha_beta, alpha=1, beta=0, bias=False)),
    "alpha2beta1": (AlphaBeta(2, 1), partial(ref_alpha_beta, alpha=2, beta=1, bias=False)),
    "alpha1beta0 with bias": (AlphaBeta(1, 0, bias=True), partial(ref_alpha_beta, alpha=1, beta=0, bias=True)),
    "alpha2beta1 with bias": (AlphaBeta(2, 1, bias=True), partial(ref_alpha_beta, alpha=2, beta=1, bias=True)),
    "z^B": (ZBox(), ref_zbox),
    "flat": (Flat(), ref_flat),
    "excitation": (Excitation(), ref_excitation),
    "inhibition": (Inhibition(), ref_inhibition),
    "RAP official": (Official(), ref_rap_official),
    "RAP paper": (Paper(), ref_rap_paper),
    "RAP last layer": (absolute_contributions, ref_last),
    "hedge 1": (Hedge(1.0), partial(ref_hedge, gamma=1)),
    "hedge 1.5": (Hedge(1.5), partial(ref_hedge, gamma=1.5)),
    "hedge C": (Hedge(2.0, ("C",)), partial(ref_hedge, gamma=2, terms="C")),
    "hedge C+Psi": (Hedge(2.0, ("C", "Psi")), partial(ref_hedge, gamma=2, terms="C Psi")),
    "hedge A+U": (Hedge(2.0, ("A", "U")), partial(ref_hedge, gamma=2, terms="A U")),
    "hedge C+A+U": (Hedge(2.0, ("C", "A", "U")), partial(ref_hedge, gamma=2, terms="C A U")),
    "RSP": (Sectional(), ref_rsp),
    **{f"Relevance-CAM {n}": (Exciting(n), partial(ref_exciting, biases=n)) for n in (0, 1, 2)},
    "AGF": (agf_rule, ref_agf),
}


@pytest.mark.parametrize("name", RULES)
def test_rule_equals_its_definition(case: Case, name: str) -> None:
    """Every rule on fully connected layers and convolutions, inputs of one sign and of both, three samples at once."""
    rule, reference = RULES[name]
    expected = case.expected(reference)
    assert expected.abs().max() > 0
    assert_close(rule(case.x, case.layer, case.relevance), expected, TOLERANCE)


@pytest.mark.parametrize("name", RULES)
def test_rule_works_per_sample(case: Case, name: str) -> None:
    """Three samples at once against one at a time, also where one sample alone has negative inputs; 1e-12."""
    x = case.x.clone()
    x[1].clamp_(min=0)
    rule = RULES[name][0]
    alone = [rule(x[k : k + 1], case.layer, case.relevance[k : k + 1]) for k in range(3)]
    assert_close(rule(x, case.layer, case.relevance), torch.cat(alone), 1e-12)


# Other operations


POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "average": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, 2),
    "mean": lambda x: x.mean((2, 3)),
}


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
@pytest.mark.parametrize("hedged", [False, True])
def test_average_pools_share_in_proportion(signs: str, pool: Callable[[Tensor], Tensor], hedged: bool) -> None:
    """J with the pool's matrix; for the hedge on max(x, 0) + 1e-9."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, 5, 5, generator=generator, dtype=torch.float64)
    x = x.clamp(min=0) if signs == "non-negative" else x
    r = torch.randn(pool(x).shape, generator=generator, dtype=torch.float64)
    matrix = torch.autograd.functional.jacobian(lambda v: pool(v[None])[0], x[0]).reshape(-1, x[0].numel())
    seen = x.clamp(min=0) + 1e-9 if hedged else x
    expected = torch.stack([shared(v.flatten() * matrix, s.flatten()) for v, s in zip(seen, r, strict=True)])
    rule = pool_positive if hedged else rules.share
    assert_close(rule(x, pool, r), expected.view_as(x), TOLERANCE)


def test_max_pool_gives_all_to_the_largest() -> None:
    """By hand: windows (1, 3) and (-2, -5) of one row; exact."""
    x = torch.tensor([1.0, 3, -2, -5]).view(1, 1, 1, 4)
    relevance = torch.tensor([2.0, -1]).view(1, 1, 1, 2)
    pooled = rules.gradient(x, lambda v: F.max_pool2d(v, (1, 2)), relevance)
    assert pooled.flatten().tolist() == [0, 2, -1, 0]


def test_sums_by_hand() -> None:
    """(3, -1, 0, 2) + (1, -1, 0, -2), R = 4: in proportion 3:1, 1:1, nothing at 0/0, nothing at 2 - 2; exact."""
    a, b = torch.tensor([[3.0, -1, 0, 2]]), torch.tensor([[1.0, -1, 0, -2]])
    r = torch.full((1, 4), 4.0)
    first, second = rules.proportional((a, b), (0, 0), r)
    assert first is not None
    assert second is not None
    assert first.tolist() == [[3, 2, 0, 0]]
    assert second.tolist() == [[1, 2, 0, 0]]
    main, shortcut = rules.deepest_alone((a, b), (1, 3), r)
    assert main is None
    assert shortcut is not None
    assert shortcut.tolist() == r.tolist()
    assert [half.tolist() for half in rules.halved((a, b), (1, 3), r) if half is not None] == [[[2] * 4]] * 2


def test_stabiliser_is_relative() -> None:
    """z + eps mean|z| sign(z), sign(0) = 1, by hand; and scaling a layer changes no share; exact, powers of two."""
    z = torch.tensor([[4.0, -2, 0, 2]])  # mean |z| = 2
    assert rules.stabilised_(z.clone(), 0.5).tolist() == [[5, -3, 1, 3]]
    assert torch.equal(rules.stabilised_(z, 0), z)
    a, b, r = torch.tensor([[3.0, -1]]), torch.tensor([[1.0, -1]]), torch.ones(1, 2)
    for scale in (2.0**-60, 2.0**60):
        shares = zip(
            rules.proportional((scale * a, scale * b), (0, 0), r, 0.25),
            rules.proportional((a, b), (0, 0), r, 0.25),
            strict=True,
        )
        assert all(torch.equal(p, q) for p, q in shares if p is not None and q is not None)


def test_tiny_denominators_count_as_zero() -> None:
    """R / z would overflow where z is subnormal: 0 instead of inf."""
    z = torch.tensor([[1e-45, -1e-40, 0, 1e-30]])
    assert rules.ratio(torch.ones(1, 4), z).isfinite().all()
    assert rules.ratio(torch.ones(1, 4), z)[0, :3].tolist() == [0, 0, 0]


def test_batch_norm_rules_by_hand() -> None:
    """`through` passes all; `through_nonzero` where gamma x is not exactly 0; exact."""
    x, scale, r = torch.tensor([[2.0, 0, 3]]), torch.tensor([[1.0, 1, 0]]), torch.tensor([[5.0, 6, 7]])
    assert rules.through(x, scale, r).tolist() == [[5, 6, 7]]
    assert rules.through_nonzero(x, scale, r).tolist() == [[5, 0, 0]]


@pytest.mark.parametrize(("alpha", "beta"), [(1, 1), (2, 0), (0.5, -0.5)])
def test_alpha_minus_beta_is_one(alpha: float, beta: float) -> None:
    """Otherwise relevance would not be kept: ValueError."""
    with pytest.raises(ValueError, match="alpha - beta must be 1"):
        AlphaBeta(alpha, beta)


@pytest.mark.parametrize(
    ("build", "setting"),
    [
        (lambda: Epsilon(-1.0), "epsilon=-1.0"),
        (lambda: Epsilon(float("nan")), "epsilon=nan"),
        (lambda: Gamma(-2.0), "gamma=-2.0"),
        (lambda: Gamma(float("inf")), "gamma=inf"),
        (lambda: Gamma(0.25, epsilon=-1e-6), "epsilon=-1e-06"),
    ],
)
def test_stabilisers_and_factors_are_not_negative(build: Callable[[], object], setting: str) -> None:
    """A negative stabiliser can change a denominator's sign, a negative gamma a weight's: ValueError naming setting,
    value and range. Zero is one of the values."""
    with pytest.raises(ValueError, match=f"{setting}: choose a finite number that is not negative"):
        build()
    Gamma(0, epsilon=0)
    Epsilon(0)
