"""Which candidates are kept, and what is shared while they predict."""

import re
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from assay.harness.detection import Features
from assay.harness.network import Network
from assay.harness.training import TrainingSet
from assay.methods.error.mutants import acceptance
from assay.methods.error.mutants.acceptance import AccuracyFilter, Trial, Validation, accept
from assay.methods.error.mutants.mutant import Change, Mutant, Mutation, mutated
from assay.methods.error.mutants.predictions import Prefixes, predictions
from assay.methods.error.mutants.sites import sites_of
from conftest import known, random_images, torchvision_module
from detection_toys import training_of
from torch import Tensor, nn

# The filter


@pytest.mark.parametrize(
    ("right", "seen", "verdict"),
    [(72, 72, True), (71, 80, None), (71, 99, None), (71, 100, False), (0, 28, None), (0, 29, False)],
)
def test_certain_verdicts_by_hand(right: int, seen: int, verdict: bool | None) -> None:
    """The network is right on 80 of 100: 72 are needed, at most 28 may be wrong."""
    rule = AccuracyFilter(keep=0.9, look=None)
    assert rule.needed(80) == 72
    assert rule.verdict(right, seen, 72, 100) is verdict


def test_early_rejection_by_hand() -> None:
    """After 500 of 5,000: margin sqrt((1 - 499/5000) ln(9/0.001) / 1000) = .0905 below 3600/5000: 314 of 500. Between
    two looks there is none: the nine before the last image share the risk."""
    rule = AccuracyFilter()
    assert [rule.verdict(right, 500, 3600, 5000) for right in (314, 315)] == [False, None]
    assert [rule.verdict(0, seen, 3600, 5000) for seen in (499, 600, 999)] == [None] * 3
    assert rule.verdict(0, 1000, 3600, 5000) is False


@pytest.mark.parametrize("look", [1, 7, 10, 25, 60, None])
def test_images_are_asked_up_to_each_look(monkeypatch: pytest.MonkeyPatch, look: int | None) -> None:
    """Each image once, in order, at most 10 at once, with an end at each multiple of `look`: verdicts are the same."""
    monkeypatch.setattr(acceptance, "BATCH", 10)
    made = list(acceptance._batches(60, look))
    assert np.concatenate(made).tolist() == list(range(60))
    assert max(map(len, made)) <= 10
    assert {int(each[-1]) + 1 for each in made} >= set(range(look or 60, 61, look or 60))


def test_verdicts_do_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 candidates, of which a good one is lost now and then, with looks behind every 150 of 1,000 images: batches
    of 10, 70 and 400 accept the same ones."""
    draw, total, needed = np.random.default_rng(0), 1000, 700
    rule = AccuracyFilter(look=150, risk=0.9)
    shares = draw.uniform(0.68, 0.74, 1000)
    rights = [(draw.permutation(total) < round(share * total)).cumsum() for share in shares]

    def verdicts(batch: int) -> list[bool]:
        monkeypatch.setattr(acceptance, "BATCH", batch)
        ends = [int(places[-1]) + 1 for places in acceptance._batches(total, rule.look)]
        said = [[rule.verdict(int(right[end - 1]), end, needed, total) for end in ends] for right in rights]
        return [next(each for each in row if each is not None) for row in said]

    made = [verdicts(batch) for batch in (10, 70, 400)]
    assert made[0] == made[1] == made[2]
    assert sum(made[0]) < sum(right[-1] >= needed for right in rights)


@pytest.mark.parametrize("look", [50, 100, 300])
def test_good_candidates_are_lost_as_rarely_as_said(look: int) -> None:
    """20,000 that have exactly the needed ones, so that a rejection is a mistake: at most a share `risk` of them."""
    draw, total, needed, count = np.random.default_rng(0), 1000, 500, 20_000
    rule = AccuracyFilter(look=look, risk=0.2)
    right = draw.permuted(np.tile(np.arange(total) < needed, (count, 1)), axis=1).cumsum(1)
    lost = np.zeros(count, dtype=bool)
    for seen in range(50, total, 50):
        least = next(n for n in range(seen + 1) if not rule._hopeless(n, seen, needed, total))
        lost |= right[:, seen - 1] < least
    assert lost.mean() <= 0.2


def test_a_share_that_lacks_a_last_digit() -> None:
    """0.9 * 80 + its float's excess must not ask for one more; 0.9 * 81 = 72.9 asks for 73."""
    assert [AccuracyFilter().needed(right) for right in (10, 80, 81, 90)] == [9, 72, 73, 81]


def test_never_accepts_what_all_images_reject() -> None:
    """2,000 candidates with accuracies around the limit, seen in the filter's order: what is accepted has the right
    ones, whatever the looks; and of those that deserve it at most a share `risk` is lost (here: none is)."""
    draw, total, needed = np.random.default_rng(0), 1000, 720
    rule = AccuracyFilter(look=50, risk=0.01)
    accepted = deserving = 0
    for share in draw.uniform(0.6, 0.8, 2000):
        right = (draw.permutation(total) < round(share * total)).cumsum()
        verdicts = [rule.verdict(int(right[seen - 1]), seen, needed, total) for seen in range(100, total + 1, 100)]
        verdict = next(each for each in verdicts if each is not None)
        assert verdict is False or right[-1] >= needed
        accepted, deserving = accepted + bool(verdict), deserving + bool(right[-1] >= needed)
    assert 0.99 * deserving <= accepted <= deserving


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"keep": 0.0}, "keep=0: give a share"),
        ({"keep": 1.1}, "keep=1.1: give a share"),
        ({"look": 0}, "look=0: give at least 1"),
        ({"risk": 0.0}, "risk=0: give a probability"),
    ],
)
def test_settings_are_checked(rule: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        AccuracyFilter(**rule)  # type: ignore[arg-type]


# Trials on a network that reads off the label


class Reader(nn.Module):
    """Logits are the mean of each channel, through a 1x1 convolution that is the identity."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1, bias=False)
        self.conv.weight.data = torch.eye(3)[:, :, None, None]

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3))


LABELS = torch.arange(60) % 3


def colours() -> Tensor:
    """60 images; class k has channel k at 1, the others at 0.5."""
    return (0.5 + 0.5 * torch.eye(3)[LABELS])[:, :, None, None].expand(-1, -1, 2, 2).contiguous()


def validation_of(network: Network, images: Tensor, labels: Tensor) -> TrainingSet:
    features = Features(network(network.normalise(images)).detach(), labels)
    return training_of(features, 25, network=network, images=lambda rows: images[torch.from_numpy(rows)])


def silent(channel: int, scale: float) -> Mutant:
    """One filter's weights times a scale: below 0.5 the class is never predicted."""
    values = scale * torch.eye(3)[channel][None]
    return Mutant("filter", (Change("conv", torch.tensor([channel]), values),))


def trial(candidates: Sequence[Mutant], wanted: int, keep: float = 0.9, labels: Tensor = LABELS) -> Trial:
    network = Network(Reader(), (0,) * 3, (1,) * 3)
    sites = sites_of(network, colours()[:1])
    validation = Validation.of(validation_of(network, colours(), labels))
    rule = AccuracyFilter(keep)
    return accept(network, Prefixes(network, sites), candidates.__getitem__, validation, rule, wanted, len(candidates))


CANDIDATES = [silent(0, 0.1), silent(0, 0.9), silent(1, 0.1), silent(2, 0.8), silent(1, 0.7), silent(0, 0.8)]


def test_accepted_in_the_order_of_their_numbers() -> None:
    """A silent class costs 20 of 60: rejected; candidates 1, 3 and 4 keep every prediction."""
    made = trial(CANDIDATES, wanted=3)
    assert list(made.mutants) == [1, 3, 4]
    assert all(made.mutants[number] is CANDIDATES[number] for number in made.mutants)
    assert made.tried == 5


def test_fewer_are_the_first_of_more() -> None:
    assert [list(trial(CANDIDATES, wanted).mutants) for wanted in (1, 2, 3, 4)] == [
        [1],
        [1, 3],
        [1, 3, 4],
        [1, 3, 4, 5],
    ]


def test_the_filter_is_relative_to_the_network() -> None:
    """Half of the labels are wrong: the network is right on 30 of 60, and a mutant that keeps 60 % of them is kept."""
    labels = torch.where(torch.arange(60) % 2 == 0, LABELS, (LABELS + 1) % 3)
    assert list(trial(CANDIDATES[:3], 3, keep=0.6, labels=labels).mutants) == [0, 1, 2]


def test_images_without_a_label_do_not_count() -> None:
    """Unlabelled, class 0 costs nothing."""
    labels = torch.where(LABELS == 0, -1, LABELS)
    assert list(trial(CANDIDATES[:1], 1, labels=labels).mutants) == [0]


def test_too_few_are_an_error() -> None:
    with pytest.raises(ValueError, match=re.escape("1 of 2 mutants after 3 candidates: the others keep less than 0.9")):
        trial(CANDIDATES[:3], wanted=2)


def test_a_network_that_is_never_right_is_an_error() -> None:
    with pytest.raises(ValueError, match="right on none of 60 validation images"):
        trial(CANDIDATES, 1, labels=(LABELS + 1) % 3)


def test_accepted_mutants_satisfy_the_filter_and_early_ones_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates of a small ResNet, on 60 images labelled with its predictions but for every fifth, in
    batches of 10: each accepted one keeps the accuracy on all of them. With early rejection the same ones, sooner."""
    monkeypatch.setattr(acceptance, "BATCH", 10)
    network, images = known("tiny_resnet").network, 4 * random_images(60, 1) - 2 + random_images(60, 16, 1) / 2
    with torch.no_grad():
        predicted = network(network.normalise(images)).argmax(1)
    labels = torch.where(torch.arange(60) % 5 == 0, (predicted + 1) % 4, predicted)
    sites = sites_of(network, images[:1])
    mutation, prefixes = Mutation("NAI", "filter", 0.1), Prefixes(network, sites)
    validation = Validation.of(validation_of(network, images, labels))

    def tried(rule: AccuracyFilter) -> Trial:
        candidate = lambda number: mutation.candidate(sites, 0, number)  # noqa: E731
        return accept(network, prefixes, candidate, validation, rule, 6, 60)

    made, early = tried(AccuracyFilter(look=None)), tried(AccuracyFilter(look=10, risk=0.5))
    assert made.tried > 6  # some were rejected
    assert list(early.mutants) == list(made.mutants)
    assert early.asked < made.asked < made.tried * 60
    for mutant in made.mutants.values():
        with mutated(network.module, mutant), torch.no_grad():
            classes = network(network.normalise(images)).argmax(1)
        assert int((classes == labels).sum()) >= 0.9 * 48


# Prefixes


def seen(name: str) -> tuple[Network, Tensor]:
    """A network, and images."""
    if name.startswith("tiny"):
        return known(name).network, random_images(3, 16)
    return Network(torchvision_module(name), (0.5,) * 3, (0.25,) * 3), random_images(3, 32)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("resnet18", "googlenet", "densenet121")]


@pytest.mark.parametrize("name", ["tiny_resnet", "tiny_vgg", *SLOW])
def test_shared_prefixes_change_nothing(name: str) -> None:
    """Bit by bit what each whole mutant predicts; behind the cut of a late change there is little else."""
    network, images = seen(name)
    sites = sites_of(network, images[:1])
    prefixes = Prefixes(network, sites)
    rate = 2.5 / sum(site.units("filter") for site in sites)
    late = Mutant("filter", (Change(sites[-1].layer, torch.tensor([0]), -sites[-1].weight[:1].flatten(1)),))
    mutants = [late, *(Mutation("NAI", "filter", rate).candidate(sites, 0, number) for number in range(6))]
    found = torch.stack(list(predictions(network, prefixes, images, mutants)), 1)
    assert found.dtype == torch.int16
    for column, mutant in zip(found.T, mutants, strict=True):
        with mutated(network.module, mutant), torch.no_grad():
            assert torch.equal(network(network.normalise(images)).argmax(1), column.long())
    cuts = [prefixes.of(mutant) for mutant in mutants]
    assert cuts[0] is not None
    assert len(prefixes.behind[cuts[0]]) <= max(1, len(sites) // 9)  # the whole last block: 6 of GoogLeNet's 57
    assert all(mutant.layers <= prefixes.behind[cut] for mutant, cut in zip(mutants, cuts, strict=True) if cut)


class Twice(nn.Module):
    """The same convolution before and behind another."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.other = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(self.other(self.shared(x).relu())).mean((2, 3))


def test_a_layer_that_runs_twice_is_behind_no_cut() -> None:
    network = Network(Twice(), (0,) * 3, (1,) * 3)
    images = random_images(5, 4)
    sites = sites_of(network, images[:1])
    prefixes = Prefixes(network, sites)
    assert [site.calls for site in sites] == [2, 1]
    assert prefixes.of(Mutant("filter", (Change("shared", torch.tensor([0]), torch.zeros(1, 3)),))) is None
    assert prefixes.of(Mutant("filter", (Change("other", torch.tensor([0]), torch.zeros(1, 3)),))) is not None


class Untraceable(Reader):
    """Decides by a value."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 0 else x.mean((2, 3))


def test_an_untraceable_network_runs_whole() -> None:
    network = Network(Untraceable(), (0,) * 3, (1,) * 3)
    sites = sites_of(network, colours()[:1])
    prefixes = Prefixes(network, sites)
    assert prefixes.behind == {}
    (classes,) = predictions(network, prefixes, colours(), [silent(0, 0.1)])
    assert classes.tolist() == [1 if label == 0 else label for label in LABELS.tolist()]


def test_no_more_than_one_network_is_held() -> None:
    """A hundred mutants are a few numbers each; while they predict, the parameters are the network's own."""
    network, images = seen("tiny_resnet")
    sites = sites_of(network, images[:1])
    mutants = [Mutation("NAI", "filter", 0.03).candidate(sites, 0, number) for number in range(100)]
    own = sum(parameter.numel() for parameter in network.module.parameters())
    assert max(sum(change.values.numel() for change in mutant.changes) for mutant in mutants) < own / 10
    held = {parameter.data_ptr() for parameter in network.module.parameters()}
    for _ in predictions(network, Prefixes(network, sites), images, mutants[:5]):
        assert {parameter.data_ptr() for parameter in network.module.parameters()} == held
