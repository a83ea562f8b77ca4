"""The reading: mutants chosen on a set of images, asked about others; on a small trained-like network."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from assay.harness import launch
from assay.harness.detection import Features, State
from assay.harness.detectors.plan import build_detection
from assay.harness.forward import ForwardPass
from assay.harness.network import Network
from assay.harness.overrides import compose_config
from assay.harness.seeds import SampleRng
from assay.harness.training import TrainingSet
from assay.methods.error.mutants.mutant import Mutation, mutated, unpacked
from assay.methods.error.mutants.reading import MutantPredictions
from assay.methods.error.mutants.sequential import Sprt
from assay.methods.error.mutants.sites import sites_of
from conftest import known, random_images
from detection_toys import training_of
from torch import Tensor, nn

READING = MutantPredictions(rate=0.06, count=6, look=10)
RNG = SampleRng(0, "mutants", [], [])


@pytest.fixture(scope="module")
def network() -> Network:
    return Network(known("tiny_resnet").network.module, (0.5,) * 3, (0.25,) * 3)


def images(count: int, seed: int = 0) -> Tensor:
    """Colours with a little texture, on which tiny_resnet predicts several classes."""
    return 0.9 * random_images(count, 1, seed) + 0.1 * random_images(count, 16, seed + 1)


def validation(network: Network, seed: int = 0) -> TrainingSet:
    """40 images labelled as the network says, but for every eighth."""
    given = images(40)
    logits = network(network.normalise(given)).detach()
    labels = torch.where(torch.arange(40) % 8 == 0, (logits.argmax(1) + 1) % 4, logits.argmax(1))
    return training_of(
        Features(logits, labels), network=network, images=lambda rows: given[torch.from_numpy(rows)], seed=seed
    )


@pytest.fixture(scope="module")
def state(network: Network) -> State:
    return READING.prepare(validation(network))


def test_what_is_kept_are_candidates_of_the_seed(network: Network, state: State) -> None:
    """The candidates of these numbers, tried one after the other; their changed weights alone."""
    given = images(40)
    sites = sites_of(network, given[:1])
    mutants = unpacked(state, sites, "filter")
    assert len(mutants) == 6
    assert state["numbers"].tolist() == sorted(state["numbers"].tolist())
    assert int(state["n_tried"]) == int(state["numbers"][-1]) + 1
    for number, mutant in zip(state["numbers"].tolist(), mutants, strict=True):
        drawn = Mutation("NAI", "filter", 0.06).candidate(sites, 0, number)
        assert [change.layer for change in drawn.changes] == [change.layer for change in mutant.changes]
    own = sum(parameter.numel() for parameter in network.module.parameters())
    assert state["values"].numel() < own * 6 / 2


def test_accepted_mutants_satisfy_the_filter(network: Network, state: State) -> None:
    """35 of 40 are right: at least 32 must be."""
    of = validation(network)
    labels = next(iter(of.parts())).labels
    for mutant in unpacked(state, sites_of(network, images(1)), "filter"):
        with mutated(network.module, mutant):
            classes = network(network.normalise(images(40))).argmax(1)
        assert int((classes == labels).sum()) >= 32


def test_what_mutants_predict(network: Network, state: State) -> None:
    """int16 [N,6], what each mutant says by itself; the network is the same afterwards."""
    fresh = images(9, seed=5)
    before = {name: value.clone() for name, value in network.module.state_dict().items()}
    found = READING.read(ForwardPass(network, fresh), RNG, state)
    assert found.dtype == torch.int16
    for column, mutant in zip(found.T, unpacked(state, sites_of(network, fresh[:1]), "filter"), strict=True):
        with mutated(network.module, mutant):
            assert torch.equal(network(network.normalise(fresh)).argmax(1), column.long())
    assert all(torch.equal(before[name], value) for name, value in network.module.state_dict().items())


def test_same_seed_same_mutants_and_fewer_are_the_first(network: Network, state: State) -> None:
    again, fewer = READING.prepare(validation(network)), replace(READING, count=3).prepare(validation(network))
    other = READING.prepare(validation(network, seed=1))
    assert all(torch.equal(state[name], again[name]) for name in state)
    assert torch.equal(fewer["numbers"], state["numbers"][:3])
    assert torch.equal(fewer["values"], state["values"][: len(fewer["values"])])
    assert not torch.equal(other["values"], state["values"])


def test_a_sequential_stop_asks_the_same_mutants_and_fewer(network: Network, state: State) -> None:
    """Until the test of an image ends its votes are those without a stop; then -1, and passes are saved."""
    fresh, stop = images(30, seed=7), Sprt(0.1, 0.6, 0.2, 0.2)
    whole = READING.read(ForwardPass(network, fresh), RNG, state)
    forward = ForwardPass(network, fresh)
    spent = replace(network.passes)
    votes = replace(READING, stop=stop).read(forward, RNG, state)
    spent = network.passes - spent
    changed = (whole != forward.logits.argmax(1)[:, None]).to(torch.int8)
    asked = stop.walk(changed).asked
    expected = torch.where(torch.arange(6) < asked[:, None], whole, -1)
    assert torch.equal(votes, expected.to(torch.int16))
    assert 0 < int(asked.sum()) < 180
    assert spent.forward + spent.head <= int(asked.sum()) + 2 * 30 + 1


def test_a_rate_of_nothing_is_refused(network: Network) -> None:
    with pytest.raises(ValueError, match=r"the smallest rate that works here is 0\.0139"):
        replace(READING, rate=0.001).prepare(validation(network))


def test_a_network_without_convolutions_is_refused() -> None:
    with pytest.raises(ValueError, match="Sequential has no 2-d convolution"):
        READING.about(Network(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), (0,) * 3, (1,) * 3))


@pytest.mark.slow
def test_processes_do_not_change_a_bit_of_the_mutants(tmp_path: Path) -> None:
    """One process with shards of 8, two with shards of 4: the mutants that were chosen, and results.csv, byte for byte
    (micro-batches of 4 in both)."""
    small = ["experiment=errors_embedded_mutants", "method=[lcr]", "method.lcr.mutants.count=3", "dataset.size=16"]
    small += ["validation.size=40", "metric.label_change.resamples=20", "metric.error_detection.resamples=20"]
    small += ["compute.device=cpu", "compute.batch_size=4"]
    found = []
    for processes, shard in ((1, 8), (2, 4)):
        results = tmp_path / str(processes)
        words = [f"compute.processes={processes}", f"compute.shard_size={shard}", f"results={results}"]
        assert launch.run(compose_config([*small, *words]), []) == 0
        detection = build_detection(compose_config([*small, *words]), results / "store")
        (kept,) = detection.readings.values()
        found.append((kept.reader.state, (results / "tidy/results.csv").read_bytes()))
    (one, its), (two, theirs) = found
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    assert len(one["numbers"]) == 3 and its == theirs
