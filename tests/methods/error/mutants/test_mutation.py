"""Mutation operators, seeds, restoring: worked out by hand on a network of two convolutions, and on tiny_resnet."""

import re
from collections.abc import Sequence
from itertools import permutations
from typing import Any, get_args

import numpy as np
import pytest
import torch
from assay.harness.network import Network
from assay.methods.error.mutants.mutant import Change, Mutant, Mutation, mutated, packed, unpacked
from assay.methods.error.mutants.operators import OPERATORS, Chosen, Name, anywhere, within
from assay.methods.error.mutants.sites import DEPTH, Site, Unit, sites_of
from conftest import known
from torch import Tensor, nn
from torch.nn.utils import parametrizations

UNITS: tuple[Unit, ...] = get_args(Unit)
NAMES: tuple[Name, ...] = get_args(Name)
CASES = [(name, unit) for name in NAMES for unit in UNITS if name != "WS" or unit == "filter"]  # 1x1 kernels: see below


class TwoLayers(nn.Module):
    """Convolutions of 4 filters [3,2,2] and 6 filters [4,1,1], one that never runs, and a linear layer to 3 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.unused = nn.Conv2d(3, 4, 2), nn.Conv2d(3, 4, 2)
        self.second, self.linear = nn.Conv2d(4, 6, 1), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.second(self.first(x).relu()).mean((2, 3)))


@pytest.fixture
def network() -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Network(TwoLayers(), (0.5,) * 3, (0.5,) * 3)


@pytest.fixture
def sites(network: Network) -> tuple[Site, ...]:
    return sites_of(network, torch.rand(1, 3, 4, 4))


def same(first: Mutant, second: Mutant) -> bool:
    pairs = zip(first.changes, second.changes, strict=True)
    return all(
        a.layer == b.layer and torch.equal(a.units, b.units) and torch.equal(a.values, b.values) for a, b in pairs
    )


# Sites


def test_units_by_hand(sites: tuple[Site, ...]) -> None:
    """4 filters of 3 kernels of 4 weights, 6 of 4 kernels of 1; a convolution that never runs does not count."""
    assert [site.layer for site in sites] == ["first", "second"]
    assert [[site.units(unit) for unit in UNITS] for site in sites] == [[4, 12, 48], [6, 24, 24]]


def test_a_computed_weight_is_refused(network: Network) -> None:
    """A change of it would be lost at the next call, and each mutant be the network itself."""
    parametrizations.weight_norm(network.module.get_submodule("second"))
    with pytest.raises(ValueError, match="layer second: its weight is computed anew at each call"):
        sites_of(network, torch.rand(1, 3, 4, 4))


# Operators


def chosen(weight: Tensor, unit: Unit, *index: int, seed: int = 0) -> Chosen:
    return Chosen(weight, unit, torch.tensor(index), np.random.default_rng(seed))


WEIGHT = torch.arange(12.0).view(3, 2, 1, 2)  # 3 filters of 2 kernels of 2 weights


def test_inverse_by_hand() -> None:
    """Kernel 3 is the second filter's second: (6, 7)."""
    inverse = OPERATORS["NAI"].values
    assert inverse(chosen(WEIGHT, "slice2d", 3)).tolist() == [[-6, -7]]
    assert inverse(chosen(WEIGHT, "filter", 0, 2)).tolist() == [[0, -1, -2, -3], [-8, -9, -10, -11]]
    assert inverse(chosen(WEIGHT, "scalar", 7)).tolist() == [[-7]]


def test_two_switched_units_by_hand() -> None:
    """Filters 2 and 0 get one another's weights."""
    for seed in range(8):
        made = OPERATORS["NS"].values(chosen(WEIGHT, "filter", 2, 0, seed=seed))
        assert made.tolist() == [[0, 1, 2, 3], [8, 9, 10, 11]]


def test_switched_units_stand_in_any_order_but_their_own() -> None:
    """Three filters, 300 seeds: each of the five other orders, about equally often (40 of 300 at least), and one seed
    makes one order."""
    switch = OPERATORS["NS"].values
    made = [tuple((switch(chosen(WEIGHT, "filter", 0, 1, 2, seed=s))[:, 0] / 4).int().tolist()) for s in range(300)]
    assert set(made) == set(permutations(range(3))) - {(0, 1, 2)}
    assert min(map(made.count, set(made))) >= 40
    assert torch.equal(*(switch(chosen(WEIGHT, "filter", 0, 1, 2, seed=7)) for _ in range(2)))


def test_shuffle_keeps_the_weights_of_a_unit() -> None:
    weight = torch.arange(64.0).view(2, 8, 2, 2)
    made = OPERATORS["WS"].values(chosen(weight, "filter", 0, 1))
    assert torch.equal(made.sort(1).values, weight.flatten(1))
    assert not torch.equal(made, weight.flatten(1))
    assert not torch.equal(made[0].argsort(), made[1].argsort())  # each in an order of its own


def test_fuzz_has_the_place_s_mean_and_spread() -> None:
    """4,000 filters of 2 weights, N(3, 2) and N(-1, 0.1): drawn again with these means and spreads, to 0.1 and 0.02."""
    draw = torch.Generator().manual_seed(0)
    weight = torch.stack([3 + 2 * torch.randn(4000, generator=draw), -1 + 0.1 * torch.randn(4000, generator=draw)], 1)
    numbers: list[tuple[Unit, range]] = [("filter", range(4000)), ("scalar", range(8000))]
    for unit, index in numbers:
        made = OPERATORS["GF"].values(chosen(weight.view(4000, 2, 1, 1), unit, *index)).view(4000, 2)
        assert torch.allclose(made.mean(0), torch.tensor([3.0, -1.0], dtype=torch.float64), atol=0.1)
        assert torch.allclose(made.std(0), torch.tensor([2.0, 0.1], dtype=torch.float64), rtol=0.05)


# Counts


@pytest.mark.parametrize(("rate", "count"), [(0.1, 1), (0.19, 1), (0.2, 2), (0.29, 2), (1.0, 10)])
def test_so_many_units_anywhere(rate: float, count: int) -> None:
    """int(10 rate) of 4 + 6 units, none twice, each within its layer."""
    made = anywhere([4, 6], rate, np.random.default_rng(0))
    assert sum(map(len, made)) == count
    assert all(
        len(set(index)) == len(index) and set(index) <= set(range(n)) for index, n in zip(made, (4, 6), strict=True)
    )


def test_a_product_that_lacks_a_last_digit_counts() -> None:
    """100 * 0.29 is 28.999999999999996 in floating point."""
    assert sum(map(len, anywhere([100], 0.29, np.random.default_rng(0)))) == 29


def test_so_many_units_of_each_layer() -> None:
    """NS: 0.4 n of n = 4 and 9 (too few for a layer), 10 and 16; 0.1 n of 10 (one unit cannot change places), 11 and 20
    (up to 2 is rounded up), 21, 29 and 30 (beyond 2 down). 100 * 0.29 lacks no last digit."""
    cases: dict[float, dict[int, int]] = {
        0.4: {4: 0, 9: 0, 10: 4, 16: 6},
        0.1: {10: 0, 11: 2, 20: 2, 21: 2, 29: 2, 30: 3},
        0.29: {100: 29},
    }
    for rate, counts in cases.items():
        assert [len(index) for index in within(list(counts), rate, np.random.default_rng(0))] == list(counts.values())


@pytest.mark.parametrize(
    ("operator", "unit", "rate", "words"),
    [
        ("NAI", "filter", 0.09, "rate=0.09 of the network's 10 units (filter) is 0, and NAI changes at least 1: the "
                                "smallest rate that works here is 0.100"),
        ("GF", "scalar", 0.01, "the network's 72 units (scalar) is 0, and GF changes at least 1: the smallest rate "
                               "that works here is 0.0139"),
        ("NS", "slice2d", 0.04, "the largest layer's 24 units (slice2d) is 1, and NS changes at least 2: the smallest "
                                "rate that works here is 0.0417"),
    ],
)  # fmt: skip
def test_a_count_of_zero_is_an_error(
    sites: Sequence[Site], operator: Name, unit: Unit, rate: float, words: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        Mutation(operator, unit, rate).check(sites)
    Mutation(operator, unit, float(words.split()[-1])).check(sites)


def test_one_unit_of_ten_cannot_change_places() -> None:
    """A tenth of ten filters is one: .101 is the smallest rate of three digits."""
    sites = [Site("all", torch.empty(10, 1, 1, 1), 1)]
    with pytest.raises(ValueError, match=re.escape("the smallest rate that works here is 0.101")):
        Mutation("NS", "filter", 0.1).check(sites)
    Mutation("NS", "filter", 0.101).check(sites)


def test_layers_of_fewer_than_ten_units_are_left_alone(sites: Sequence[Site]) -> None:
    """4 and 6 filters: NS would change nothing at any rate."""
    with pytest.raises(ValueError, match=re.escape("NS changes layers of at least 10 units, and the largest has 6")):
        Mutation("NS", "filter", 1.0).check(sites)


def test_the_printed_rate_is_impossible() -> None:
    """0.1 % of ResNet-20's 688 filters, as the conductance paper has it for CIFAR-10, is none."""
    sites = [Site("all", torch.empty(688, 1, 1, 1), 1)]
    with pytest.raises(ValueError, match=re.escape("the smallest rate that works here is 0.00146")):
        Mutation("NAI", "filter", 0.001).check(sites)


def test_a_unit_of_one_weight_cannot_be_shuffled(sites: Sequence[Site]) -> None:
    """second has kernels of one weight: a mutant would be the network itself."""
    with pytest.raises(ValueError, match="unit=slice2d of second is one weight"):
        Mutation("WS", "slice2d", 0.5).check(sites)
    Mutation("WS", "filter", 0.5).check(sites)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"operator": "XY"}, "operator='XY': choose one of GF, NAI, WS, NS"),
        ({"unit": "kernel"}, "unit='kernel': choose one of filter, slice2d, scalar"),
        ({"rate": 0.0}, "rate=0: give a share of the units"),
        ({"rate": 10.0}, "rate=10: give a share of the units"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        Mutation(**{"operator": "NAI", "unit": "filter", "rate": 0.1, **settings})


# Candidates


def enough(operator: Name) -> Unit:
    """A unit of which `TwoLayers` has enough in a layer."""
    return "slice2d" if operator == "NS" else "filter"


@pytest.mark.parametrize("operator", NAMES)
def test_a_candidate_depends_on_seed_and_number_alone(sites: Sequence[Site], operator: Name) -> None:
    """Drawn in any order, by anybody; another number or seed is another mutant. Seeds are `spawn`'s."""
    mutation = Mutation(operator, enough(operator), 0.5)
    forwards = [mutation.candidate(sites, 7, number) for number in range(8)]
    backwards = [mutation.candidate(sites, 7, number) for number in reversed(range(8))][::-1]
    assert all(map(same, forwards, backwards))
    assert not any(same(forwards[0], other) for other in [*forwards[1:], mutation.candidate(sites, 8, 0)]
                   if len(other.changes) == len(forwards[0].changes))  # fmt: skip
    spawned = np.random.SeedSequence(7).spawn(8)[5].generate_state(4)
    assert list(spawned) == list(np.random.SeedSequence(7, spawn_key=(5,)).generate_state(4))


@pytest.mark.parametrize(("operator", "unit"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_mutated_and_restored_to_the_bit(operator: Name, unit: Unit, dtype: torch.dtype) -> None:
    """The changed units are others while it is a mutant, all else stays, and afterwards every bit is back."""
    tiny = known("tiny_resnet").network.to(dtype=dtype)
    sites = sites_of(tiny, torch.rand(1, 3, 16, 16))
    mutant = Mutation(operator, unit, 0.2).candidate(sites, 0, 0)
    before = {name: value.clone() for name, value in tiny.module.state_dict().items()}
    with mutated(tiny.module, mutant):
        inside = {name: value.clone() for name, value in tiny.module.state_dict().items()}
    after = tiny.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    changed = {name.removesuffix(".weight") for name in before if not torch.equal(before[name], inside[name])}
    assert changed == mutant.layers
    for change in mutant.changes:
        old, new = (each[f"{change.layer}.weight"].flatten(0, DEPTH[unit] - 1).reshape(-1, change.values.shape[1])
                    for each in (before, inside))  # fmt: skip
        untouched = sorted(set(range(len(old))) - set(change.units.tolist()))
        assert torch.equal(old[untouched], new[untouched])
        assert torch.equal(new[change.units], change.values.to(dtype))


def test_restored_after_an_error(network: Network, sites: Sequence[Site]) -> None:
    before = network.module.get_parameter("first.weight").clone()
    mutant = Mutation("NAI", "filter", 1.0).candidate(sites, 0, 0)
    with pytest.raises(KeyError), mutated(network.module, mutant):
        raise KeyError
    assert torch.equal(before, network.module.get_parameter("first.weight"))


def test_a_graph_kept_from_before_stays_valid(network: Network, sites: Sequence[Site]) -> None:
    """Other detectors of the shared pass go backwards through it after mutants have run."""
    leaf = torch.rand(2, 3, 4, 4, requires_grad=True)
    logits = network.module(leaf)
    (expected,) = torch.autograd.grad(logits.sum(), leaf, retain_graph=True)
    with mutated(network.module, Mutation("NAI", "filter", 1.0).candidate(sites, 0, 0)):
        pass
    (found,) = torch.autograd.grad(logits.sum(), leaf)
    assert torch.equal(expected, found)


@pytest.mark.parametrize("operator", NAMES)
def test_packed_and_unpacked(sites: Sequence[Site], operator: Name) -> None:
    """Tensors alone, and the same mutants: also one that leaves a layer alone."""
    mutation = Mutation(operator, enough(operator), 0.4)
    mutants = [mutation.candidate(sites, 0, number) for number in range(6)]
    again = unpacked(packed(mutants, sites), sites, enough(operator))
    assert len(again) == 6
    assert all(map(same, mutants, again))


def test_packed_by_hand() -> None:
    """Two mutants of units [1,1,1,2]: rows (mutant, site, unit), and their weights in a line."""
    sites = [Site("a", torch.zeros(3, 1, 1, 2), 1), Site("b", torch.zeros(3, 1, 1, 2), 1)]
    first = Mutant("filter", (Change("b", torch.tensor([2]), torch.tensor([[1.0, 2]])),))
    second = Mutant("filter", (Change("a", torch.tensor([0, 1]), torch.tensor([[3.0, 4], [5, 6]])),))
    state = packed([first, second], sites)
    assert state["entries"].tolist() == [[0, 1, 2], [1, 0, 0], [1, 0, 1]]
    assert state["values"].tolist() == [1, 2, 3, 4, 5, 6]
