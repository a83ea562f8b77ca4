"""MC dropout and ensembles: opinions by hand, draws of an image alone, members that are what their files say."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from assay.harness import launch
from assay.harness.config import ConfigError
from assay.harness.detection import Features
from assay.harness.detectors.plan import TEST, build_detection
from assay.harness.detectors.run import DetectorRun
from assay.harness.engine.rank import Rank
from assay.harness.engine.request import Request
from assay.harness.forward import ForwardPass
from assay.harness.network import Network
from assay.harness.networks.loading import scenes_network
from assay.harness.networks.members import OtherWeights
from assay.harness.overrides import compose_config
from assay.harness.seeds import SampleRng
from assay.methods.error.committee import (
    Dropped,
    Ensemble,
    MCDropout,
    Members,
    dropping,
    opinions,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.special import entr
from torchvision.ops import StochasticDepth

EMBEDDED = Path("harness/networks/embedded/scenes_vgg.safetensors")


def network(*layers: nn.Module, seed: int = 0) -> Network:
    """Layers with seeded weights on images that are taken as they are."""
    torch.manual_seed(seed)
    module = nn.Sequential(*layers)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return Network(module, [0.0] * 3, [1.0] * 3)


def linear(share: float = 0.5, seed: int = 0) -> Network:
    """Four pixels of three channels, dropout, three classes."""
    return network(nn.Flatten(), nn.Dropout(share), nn.Linear(12, 3), seed=seed)


def images(count: int = 6, seed: int = 1) -> Tensor:
    """[N,3,2,2] in [0,1]."""
    return torch.rand(count, 3, 2, 2, generator=torch.Generator().manual_seed(seed))


def rng(names: str, seed: int = 0) -> SampleRng:
    """Of images with one-letter names."""
    return SampleRng(seed, "Dropped", list(names), [])


def read(made: Network, given: Tensor, names: str, passes: int = 8, seed: int = 0) -> Tensor:
    """Opinions of some images."""
    return Dropped(passes).read(ForwardPass(made, given), rng(names, seed), {})


def scored(detector: MCDropout | Ensemble, opinion: Tensor, predicted: int) -> float:
    """The score of one image with this opinion, whose predicted class is given."""
    logits = torch.zeros(1, opinion.shape[1] // 2).index_fill_(1, torch.tensor([predicted]), 1)
    (reading,) = detector.needs().readings
    features = Features(logits, torch.tensor([-1]), readings={reading: opinion})
    return float(detector.score(features, {}))


# Opinions


def test_opinions_by_hand() -> None:
    """Three members give (1/2, 1/4, 1/4), (1/4, 1/2, 1/4) and (1/4, 1/4, 1/2): the mean is 1/3 each, each class has a
    third of the votes, and the information is log 3 - 3/2 log 2; 1e-6. Predicted 0: 2/3 in doubt, 2/3 disagree."""
    p = torch.tensor([[2.0, 1, 1], [1, 2, 1], [1, 1, 2]]) / 4
    opinion = opinions(p.log()[:, None])
    information = math.log(3) - 1.5 * math.log(2)
    assert opinion.tolist()[0] == pytest.approx([1 / 3] * 6 + [information], abs=1e-6)
    expected = {"mean_softmax": 2 / 3, "disagreement": 2 / 3, "mutual_information": information}
    for form, value in expected.items():
        assert scored(MCDropout(form), opinion, 0) == pytest.approx(value, abs=1e-6)  # type: ignore[arg-type]


def test_information_is_a_difference_of_entropies() -> None:
    """H(mean p) - mean H(p) of random members, 1e-6; members that agree have none, exactly."""
    logits = 3 * torch.randn(5, 40, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = logits.softmax(2)
    expected = entr(p.mean(0)).sum(1) - entr(p).sum(2).mean(0)
    assert torch.allclose(opinions(logits)[:, -1].double(), expected, rtol=0, atol=1e-6)
    assert torch.allclose(opinions(logits)[:, :4].double(), p.mean(0), rtol=0, atol=1e-6)
    assert opinions(logits[:1].expand(5, -1, -1))[:, -1].abs().max() < 1e-12


def test_sure_members_do_not_tie() -> None:
    """Logits (z, 0), z from 20 to 60, twice: one minus the mean probability is e^-z (1e-5 relative), and 1 - p is 0."""
    z = torch.linspace(20, 60, 9)
    opinion = opinions(torch.stack([z, 0 * z], 1).expand(2, -1, -1))
    found = [scored(MCDropout(), row[None], 0) for row in opinion]
    assert found == pytest.approx(torch.exp(-z.double()).tolist(), rel=1e-5)


# MC dropout


def test_dropout_is_torchs() -> None:
    """Kept units are divided by 1 - p, about a share p is dropped (.02 of 12,000), Dropout2d drops whole maps; outside
    nothing is dropped, and no layer has left eval mode."""
    given = torch.ones(1000, 3, 2, 2)
    for layer, alike in ((nn.Dropout(0.25), False), (nn.Dropout2d(0.25), True)):
        made = network(nn.Identity(), layer, nn.Flatten())
        with dropping(made.module, SampleRng(0, "", [str(i) for i in range(1000)], [])):
            dropped = made.module(given).view(1000, 3, 4)
        assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
        assert float((dropped == 0).float().mean()) == pytest.approx(0.25, abs=0.02)
        assert bool((dropped == dropped[:, :, :1]).all()) is alike
        assert torch.equal(made.module(given), given.flatten(1))
        assert not any(each.training for each in made.module.modules())


def test_passes_average_to_the_network_without_dropout() -> None:
    """Of a linear network the mean over 4,000 passes is its logits, within four standard errors."""
    made, given = linear(), images(1)
    with torch.no_grad(), dropping(made.module, rng("a")):
        logits = torch.stack([made(made.normalise(given))[0] for _ in range(4000)])
    error = logits.std(0) / 4000**0.5
    with torch.no_grad():
        assert bool(((logits.mean(0) - made(made.normalise(given))[0]).abs() < 4 * error).all())


def test_an_images_draws_are_its_own() -> None:
    """Alone, in a batch, and in another order the same opinion (1e-6); another name or seed draws other units; passes
    differ, so there is information."""
    made, given = linear(), images()
    whole = read(made, given, "abcdef")
    turned = read(made, given.flip(0), "fedcba")
    assert torch.allclose(whole, turned.flip(0), rtol=0, atol=1e-6)
    assert torch.allclose(whole[2:3], read(made, given[2:3], "c"), rtol=0, atol=1e-6)
    assert not torch.allclose(whole[2:3], read(made, given[2:3], "x"), rtol=0, atol=1e-6)
    assert not torch.allclose(whole, read(made, given, "abcdef", seed=1), rtol=0, atol=1e-6)
    assert float(whole[:, -1].min()) > 0


def test_passes_are_counted() -> None:
    """Eight passes of six images."""
    made = linear()
    read(made, images(), "abcdef")
    assert made.passes.forward == 48


class Functional(nn.Module):
    """Dropout as a function, which nothing shows before it runs."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x.flatten(1), 0.5, self.training)


WITHOUT: dict[str, list[nn.Module]] = {
    "none": [nn.Flatten()],
    "p=0": [nn.Flatten(), nn.Dropout(0.0)],
    "function": [Functional()],
    "alpha": [nn.Flatten(), nn.AlphaDropout(0.5)],
    "depth": [StochasticDepth(0.5, "row"), nn.Flatten()],
}


@pytest.mark.parametrize("layers", WITHOUT.values(), ids=WITHOUT)
def test_a_network_without_dropout_is_refused(layers: list[nn.Module]) -> None:
    """By name; nothing would differ between its passes. So are those whose dropout is of a kind that stays off."""
    with pytest.raises(ValueError, match="Sequential has no dropout layer"):
        Dropped(4).about(network(*layers, nn.Linear(12, 3)))


# Ensembles


def test_outputs_that_are_grouped_count_as_one_class(tmp_path: Path) -> None:
    """Three outputs read as two classes, {0, 1} and {2}, and a third without any: opinions are of these classes, by the
    highest member's logit (1e-6); a class without outputs has no probability and no vote."""
    given, groups = images(), [[0, 1], [2], []]
    own, other = (Network(linear(seed=s).module, [0.0] * 3, [1.0] * 3, groups=groups) for s in (0, 1))
    members = Members((saved(other, tmp_path / "other.safetensors"),), OtherWeights())
    found = members.read(ForwardPass(own, given), rng("abcdef"), {})
    with torch.no_grad():
        logits = torch.stack([each(each.normalise(given)) for each in (own, other)])
    p = torch.stack([logits[:, :, :2].amax(2), logits[:, :, 2]], 2).softmax(2)
    assert found.shape == (6, 7)
    assert torch.allclose(found[:, :2], p.mean(0), rtol=0, atol=1e-6)
    assert torch.equal(found[:, [2, 5]], torch.zeros(6, 2))
    assert read(own, given, "abcdef").shape == (6, 7)


class First(nn.Module):
    """One logit z an image: `scale` times its first pixel."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale, self.drop = nn.Parameter(torch.tensor(scale)), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.scale * x[:, :1, 0, 0])


def binary(scale: float) -> Network:
    """`First`, read as two classes."""
    return Network(First(scale), [0.0] * 3, [1.0] * 3, activation="binary")


def test_binary_members_by_hand(tmp_path: Path) -> None:
    """Members with z = 6 and -.6, predicted class 1: 1 - (sigmoid(6) + sigmoid(-.6)) / 2 = .324, where the softmax of
    [-z, z] would give .384; of z = 1 and -.1 that is .397. 1e-6."""
    given = torch.ones(2, 3, 2, 2) * torch.tensor([6.0, 1.0]).view(2, 1, 1, 1)
    own, other = binary(1.0), binary(-0.1)
    members = Members((saved(other, tmp_path / "other.safetensors"),), OtherWeights())
    found = members.read(ForwardPass(own, given), rng("ab"), {})
    z = torch.tensor([[6.0, -0.6], [1.0, -0.1]], dtype=torch.float64)
    assert torch.allclose(found[:, 1].double(), z.sigmoid().mean(1), rtol=0, atol=1e-6)
    assert 1 - float(found[0, 1]) == pytest.approx(0.324, abs=5e-4)


def test_binary_passes_by_hand() -> None:
    """z = 2 is 0 or 4 in a pass, so that its probability is 1/2 or sigmoid(4) in each; 1e-6 of one pass."""
    given = torch.full((20, 3, 2, 2), 2.0)
    found = read(binary(1.0), given, "abcdefghijklmnopqrst", passes=1)[:, 1].unique()
    assert found.tolist() == pytest.approx([0.5, torch.tensor(4.0).sigmoid().item()], abs=1e-6)


def saved(made: Network, path: Path) -> str:
    """Its weights as a file."""
    save_file(made.module.state_dict(), path)
    return str(path)


def test_members_are_their_files(tmp_path: Path) -> None:
    """The opinions of the network and two others, by direct calls; the network keeps its own weights; exactly."""
    own, one, two = (linear(seed=seed) for seed in range(3))
    before = [each.clone() for each in own.module.parameters()]
    files = tuple(saved(each, tmp_path / f"{name}.safetensors") for name, each in (("one", one), ("two", two)))
    members, given = Members(files, OtherWeights()), images()
    with torch.no_grad():
        expected = opinions(torch.stack([each(each.normalise(given)) for each in (own, one, two)]))
    counted = own.passes.forward
    assert torch.equal(members.read(ForwardPass(own, given), rng("abcdef"), {}), expected)
    assert all(map(torch.equal, own.module.parameters(), before))
    assert own.passes.forward == counted + 3 * len(given)


def test_what_is_no_ensemble_is_refused(tmp_path: Path) -> None:
    """No file, one file twice (under two names), the network's own weights, another architecture, no such file."""
    own, other = linear(seed=0), linear(seed=1)
    mine, theirs = saved(own, tmp_path / "own.safetensors"), saved(other, tmp_path / "a.safetensors")
    copied = saved(other, tmp_path / "b.safetensors")
    narrow = saved(network(nn.Flatten(), nn.Dropout(), nn.Linear(12, 2)), tmp_path / "narrow.safetensors")
    cases = {
        (): "weights=\\[\\]: an ensemble needs other weights",
        (theirs, copied): "a.safetensors and .*b.safetensors hold the same",
        (theirs, mine): "own.safetensors holds the network's own",
        (narrow,): "narrow.safetensors does not fit Sequential",
    }
    for files, says in cases.items():
        with pytest.raises(ValueError, match=says):
            Members(files, OtherWeights()).about(own)
    with pytest.raises(FileNotFoundError, match=r"gone\.safetensors"):
        Members((str(tmp_path / "gone.safetensors"),), OtherWeights()).about(own)


def test_other_weights_are_another_reading(tmp_path: Path) -> None:
    """What identifies it is what is in the files, not where they lie; forms share it."""
    own, one, two = (linear(seed=seed) for seed in range(3))
    first, second = saved(one, tmp_path / "one.safetensors"), saved(two, tmp_path / "two.safetensors")
    moved = saved(one, tmp_path / "moved.safetensors")
    about = [Members((each,), OtherWeights()).about(own) for each in (first, second, moved)]
    assert about[0] == about[2] != about[1]
    readings = [Ensemble(OtherWeights(), [first], form).needs().readings for form in ("disagreement", "mean_softmax")]
    assert readings[0] == readings[1]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: MCDropout("variance"), "form='variance': choose one of mean_softmax"),  # type: ignore[arg-type]
        (lambda: MCDropout(passes=1), "passes=1: give at least 2"),
        (lambda: Ensemble(OtherWeights(), (), "votes"), "form='votes'"),  # type: ignore[arg-type]
    ],
    ids=["form", "passes", "ensemble"],
)
def test_bad_settings(make: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


# In a run

SMALL = [
    *("experiment=errors_embedded", "model=scenes_vgg", "dataset.size=12", "validation.size=8"),
    *("method=[mc_dropout,ensemble]", "method.mc_dropout.passes=3", "metric.error_detection.resamples=20"),
    *("compute.device=cpu", "compute.processes=1", "compute.shard_size=6", "compute.batch_size=3"),
]


def test_a_run_scores_what_the_readings_say(tmp_path: Path) -> None:
    """The embedded VGG with a disturbed copy as the other member; scores are those of direct readings (1e-6). The
    residual network, which drops nothing, is refused by name."""
    state = {name: value.float() for name, value in load_file(EMBEDDED).items()}
    draw = torch.Generator().manual_seed(0)
    other = {
        name: value + 0.1 * value.std() * torch.randn(value.shape, generator=draw) for name, value in state.items()
    }
    save_file(other, tmp_path / "other.safetensors")
    chosen = [*SMALL, f"method.ensemble.weights=[{tmp_path}/other.safetensors]"]
    config = compose_config(chosen)
    run = DetectorRun.of(Request.of(config, tmp_path / "store"))
    run.prepare(Rank(0, 1))
    assert run.compute(Rank(0, 1)).failures == {}
    detection = run.detection
    test, made = detection.sets[TEST], detection.request.network
    samples = [test.images.dataset[index] for index in range(12)]
    forward = ForwardPass(made, torch.stack([sample.image for sample in samples]))
    names = SampleRng(0, "Dropped", [sample.id for sample in samples], [])
    for name, detector in detection.detectors.items():
        (reading,) = detector.needs().readings
        values = {reading: reading.read(forward, names, {})}
        features = Features(forward.logits, torch.full((12,), -1), readings=values)
        expected = detector.score(features, {})
        assert test.table(name)["score"].tolist() == pytest.approx(expected.tolist(), abs=1e-6)
        assert float(expected.std()) > 0
    with pytest.raises(ConfigError, match="method mc_dropout: ScenesResNet has no dropout layer"):
        build_detection(compose_config([*chosen, "model=scenes_resnet", "~method.ensemble"]), tmp_path / "store")


def test_a_run_knows_members_by_their_content(tmp_path: Path) -> None:
    """A moved file: the same cells, in which no place is named."""
    made = scenes_network("ScenesVGG", str(EMBEDDED))

    def cells(name: str) -> dict[str, Any]:
        words = [*SMALL, "~method.mc_dropout", f"method.ensemble.weights=[{tmp_path / name}]"]
        detection = build_detection(compose_config(words), tmp_path / "store")
        return detection.sets[TEST].cells["ensemble"].about["identity"]

    with torch.no_grad():
        next(made.module.parameters()).add_(1)
    saved(made, tmp_path / "first.safetensors")
    saved(made, tmp_path / "moved.safetensors")
    identity = cells("first.safetensors")
    assert identity == cells("moved.safetensors") and "safetensors" not in str(identity["method"])


@pytest.mark.slow
def test_batches_and_processes_do_not_change_a_bit_of_the_draws(tmp_path: Path) -> None:
    """Two processes, shards of 3: results.csv byte for byte (micro-batches of 3 in both)."""
    for folder, more in (("one", []), ("two", ["compute.processes=2", "compute.shard_size=3"])):
        kept = [each for each in SMALL if each.split("=")[0] not in {o.split("=")[0] for o in more}]
        words = [*kept, *more, "method=[mc_dropout]", f"results={tmp_path / folder}"]
        words.remove("method=[mc_dropout,ensemble]")
        assert launch.run(compose_config(words), []) == 0
    one, two = ((tmp_path / folder / "tidy/results.csv").read_bytes() for folder in ("one", "two"))
    assert one == two
