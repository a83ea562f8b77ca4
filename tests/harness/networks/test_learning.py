"""Training by a recipe: it learns, and a killed training that is taken up has the weights of one left alone."""

import copy
import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from assay.harness.commands.program import call
from assay.harness.config import ConfigError
from assay.harness.network import Network
from assay.harness.networks import learning
from assay.harness.networks.learning import Course, Splits, accuracy, learn, prepare
from assay.harness.networks.recipe import Augmentation, Recipe
from assay.harness.store.files import Lock
from assay.harness.types import Sample
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

SGD = Recipe("tiny", "test", "train", "val", 4, 16, 0.1, momentum=0.9, nesterov=True, weight_decay=1e-4, drops=[0.5])
ADAM = Recipe("tiny", "test", "train", "val", 3, 16, 1e-2, "adam", augmentation=Augmentation(pad=1, flip=0.5))


class Colours:
    """Noise of which one channel is brighter: its number is the label."""

    classes, split = ("red", "green", "blue"), "test"

    def __init__(self, count: int, seed: int) -> None:
        random = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(3, (count,), generator=random)
        self.images = 0.7 * torch.rand(count, 3, 6, 6, generator=random)
        self.images[torch.arange(count), self.labels] += 0.3

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        return Sample(f"{index}", self.images[index], (int(self.labels[index]),), (6, 6))

    def fingerprint(self) -> str:
        return f"{self.images.sum()}"


def module(classes: int = 3) -> nn.Module:
    """With what has state or draws in training: batch-norm and dropout."""
    body = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2)]
    return nn.Sequential(*body, nn.Linear(6, classes))


def course(recipe: Recipe = SGD, classes: int = 3, workers: int = 0) -> Course:
    """50 images to train on: batches of 16, 16, 16 and 2."""
    network = Network(module(classes), [0.5] * 3, [0.25] * 3)
    splits = Splits(Colours(50, 0), Colours(20, 1), Colours(30, 2))
    about = {name: value for name, value in vars(recipe).items() if name != "augmentation"}
    return Course("tiny", network, recipe, splits, about, workers=workers)


def weights(place: Path) -> dict[str, Tensor]:
    return load_file(place)


def assert_same(one: Path, other: Path) -> None:
    """Every tensor, bit by bit."""
    left, right = weights(one), weights(other)
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module", params=[SGD, ADAM], ids=["sgd", "adam"])
def alone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    """The weights of a training that nobody disturbed."""
    place = tmp_path_factory.mktemp("alone") / "tiny.safetensors"
    learn(course(request.param), place)
    return request.param, place


def test_it_learns_and_leaves_its_weights_alone(tmp_path: Path) -> None:
    """Accuracy above 0.8 of three colours; the file is the network's, read by torch's names; the checkpoint is gone."""
    made = course(replace(SGD, epochs=12))
    training = learn(made, tmp_path / "w" / "tiny.safetensors")
    assert [path.name for path in (tmp_path / "w").iterdir()] == ["tiny.safetensors"]
    assert training.reached["test"] > 0.8 and training.history[-1].loss < training.history[0].loss
    other = replace(course(), network=Network(module(), [0.5] * 3, [0.25] * 3))
    other.network.module.load_state_dict(weights(tmp_path / "w" / "tiny.safetensors"))
    assert accuracy(other, made.splits.test) == training.reached["test"]
    rates = [each.learning_rate for each in training.history]
    assert rates == pytest.approx([0.1] * 6 + [0.01] * 6)


def test_a_seed_decides_the_weights(tmp_path: Path, alone: tuple[Recipe, Path]) -> None:
    """Again the same, whatever the module began with; another seed another; loader processes change nothing."""
    recipe, place = alone
    torch.manual_seed(5)
    learn(course(recipe, workers=2), tmp_path / "again.safetensors")
    assert_same(place, tmp_path / "again.safetensors")
    learn(course(replace(recipe, seed=1)), tmp_path / "other.safetensors")
    left, right = weights(place), weights(tmp_path / "other.safetensors")
    assert not torch.equal(left["0.weight"], right["0.weight"])


@pytest.mark.parametrize("step", [1, 6, 11])
def test_interrupted_in_the_middle_and_taken_up(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: tuple[Recipe, Path]
) -> None:
    """Ctrl-C in the first, second and third epoch (four steps each): the same weights, bit by bit, and all epochs."""
    recipe, place = alone
    plain, steps = learning._logits, [0]

    def interrupted(network: Network, images: Tensor) -> Tensor:
        steps[0] += network.module.training
        if steps[0] == step:
            raise KeyboardInterrupt
        return plain(network, images)

    monkeypatch.setattr(learning, "_logits", interrupted)
    with pytest.raises(KeyboardInterrupt):
        learn(course(recipe), tmp_path / "tiny.safetensors")
    monkeypatch.setattr(learning, "_logits", plain)
    assert not (tmp_path / "tiny.safetensors").exists()
    training = learn(course(recipe), tmp_path / "tiny.safetensors")
    assert [each.epoch for each in training.history] == list(range(1, recipe.epochs + 1))
    assert_same(place, tmp_path / "tiny.safetensors")


def _learn_and_die(recipe: Recipe, place: Path) -> None:
    """In a process of its own: SIGKILL in the middle of the second epoch."""
    torch.set_num_threads(1)
    plain, steps = learning._logits, [0]

    def killed(network: Network, images: Tensor) -> Tensor:
        steps[0] += network.module.training
        if steps[0] == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(network, images)

    learning._logits = killed
    learn(course(recipe), place)


def test_killed_and_taken_up(tmp_path: Path, alone: tuple[Recipe, Path]) -> None:
    """SIGKILL: the lock is free, the first epoch is taken up, and the weights are those of a training left alone."""
    place = tmp_path / "tiny.safetensors"
    process = multiprocessing.get_context("fork").Process(target=_learn_and_die, args=(alone[0], place))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL and not place.exists()
    with safe_open(tmp_path / "tiny.checkpoint.safetensors", "pt") as file:
        assert any(name.startswith("optimizer.") for name in file.keys())  # noqa: SIM118
    assert len(learn(course(alone[0]), place).history) == alone[0].epochs
    assert_same(alone[1], place)


def test_a_good_enough_network_ends_the_training(tmp_path: Path) -> None:
    """The first epoch whose validation accuracy is at least stop_at is the last."""
    whole = learn(course(replace(SGD, epochs=8)), tmp_path / "whole.safetensors").history
    wanted = whole[3].validation_accuracy
    first = next(each.epoch for each in whole if each.validation_accuracy >= wanted)
    made = learn(course(replace(SGD, epochs=8, stop_at=wanted)), tmp_path / "tiny.safetensors").history
    assert [each.epoch for each in made] == list(range(1, first + 1)) and first < 8


def test_what_is_there_is_kept_or_named(tmp_path: Path, alone: tuple[Recipe, Path]) -> None:
    """A finished training is left alone; one by another recipe is named, with what differs; --restart replaces it."""
    place = tmp_path / "tiny.safetensors"
    place.write_bytes(alone[1].read_bytes())
    stamp = place.stat().st_mtime_ns
    assert learn(course(alone[0]), place).reached and place.stat().st_mtime_ns == stamp
    changed = replace(alone[0], batch_size=8)
    with pytest.raises(ConfigError, match=r"of another training: batch_size=16 there and 8 here\. --restart"):
        learn(course(changed), place)
    learn(course(changed), place, restart=True)
    assert not torch.equal(weights(place)["0.weight"], weights(alone[1])["0.weight"])
    place.write_bytes(b"no weights")
    with pytest.raises(ConfigError, match="no file of a training"):
        learn(course(changed), place)


def test_fine_tuning_begins_with_the_weights_and_a_new_last_layer() -> None:
    """Of a network of five outputs on three classes: all but the last layer as it was, that one drawn by the seed."""
    made = course(replace(SGD, start="DEFAULT"), classes=5)
    before = {name: value.clone() for name, value in made.network.module.state_dict().items()}
    prepare(made)
    after = made.network.module.state_dict()
    assert after["6.weight"].shape == (3, 6) and all(p.requires_grad for p in made.network.module.parameters())
    assert all(torch.equal(before[name], after[name]) for name in before if not name.startswith("6."))
    again = course(replace(SGD, start="DEFAULT"), classes=5)
    prepare(again)
    assert torch.equal(again.network.module.state_dict()["6.weight"], after["6.weight"])


class TwoHeads(nn.Module):
    """Of the mean and of the largest value over space, averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(3, 5), nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        return (self.one(x.mean((2, 3))) + self.other(x.amax((2, 3)))) / 2


def test_one_of_two_averaged_heads_is_not_replaced() -> None:
    with pytest.raises(ConfigError, match="ends in no one linear layer that could be replaced"):
        prepared(TwoHeads(), start="DEFAULT")


class Scaled(nn.Module):
    """Beside layers of torch's, a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.scale = module(), nn.Parameter(torch.full((3,), 7.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) * self.scale


class Drawing(Scaled):
    """That says how to draw it."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.scale)


def prepared(made: nn.Module, seed: int = 0, start: str | None = None) -> dict[str, Tensor]:
    """Parameters after `prepare`."""
    prepare(replace(course(replace(SGD, seed=seed, start=start)), network=Network(made, [0.5] * 3, [0.25] * 3)))
    return {name: value.detach() for name, value in made.named_parameters()}


def test_every_parameter_is_drawn_by_the_seed() -> None:
    """Whatever it was before, also of layers that are neither convolution, linear nor batch-norm, and of one's own."""
    body = [nn.Conv2d(3, 6, 3), nn.GroupNorm(2, 6), nn.Flatten(), nn.PReLU(), nn.Linear(96, 3)]
    for make in (lambda: nn.Sequential(*map(copy.deepcopy, body)), Drawing):
        one, two = make(), make()
        for parameter in one.parameters():
            parameter.data.fill_(0.125)
        drawn, again = prepared(one), prepared(two)
        assert all(torch.equal(drawn[name], again[name]) for name in drawn | again)
        assert not any((value == 0.125).all() for value in drawn.values())
    assert not torch.equal(prepared(Drawing())["scale"], prepared(Drawing(), seed=1)["scale"])


def test_parameters_that_nobody_draws_are_refused() -> None:
    """By name, with what mends it; weights to begin with are a remedy."""
    with pytest.raises(ConfigError, match=r"Scaled: scale: no new values .* reset_parameters\(\).*recipe\.start=FILE"):
        prepared(Scaled())
    assert prepared(Scaled(), start="DEFAULT")["scale"].tolist() == [7, 7, 7]


class WithHeads(nn.Module):
    """Beside what makes the logits, a head that only training reads, as Inception's, and another layer of its size."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.AuxLogits, self.other = module(5), nn.Linear(6, 5), nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def test_an_auxiliary_head_gets_as_many_outputs() -> None:
    """Else a network of three classes could not read the file."""
    made = course(replace(SGD, start="DEFAULT"))
    made = replace(made, network=Network(WithHeads(), [0.5] * 3, [0.25] * 3))
    prepare(made)
    state = made.network.module.state_dict()
    assert [len(state[f"{name}.weight"]) for name in ("body.6", "AuxLogits", "other")] == [3, 3, 5]


def test_what_cannot_be_trained_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other classes than outputs; an image of two labels; a loss that is not finite; a second process."""
    with pytest.raises(ConfigError, match=r"5 outputs and the training set 3 classes: model\.classes=3"):
        learn(course(classes=5), tmp_path / "a.safetensors")
    with pytest.raises(ConfigError, match=r"the loss is (nan|inf) in epoch 1: recipe\.learning_rate=1e\+30"):
        learn(course(replace(SGD, learning_rate=1e30)), tmp_path / "b.safetensors")
    lock = Lock(tmp_path / "c.lock")
    assert lock.acquire()
    with pytest.raises(ConfigError, match=f"process {os.getpid()} on .* trains .*c.safetensors"):
        learn(course(), tmp_path / "c.safetensors")
    lock.release()
    monkeypatch.setattr(Colours, "__getitem__", lambda *_: Sample("two", torch.zeros(3, 6, 6), (0, 1), (6, 6)))
    with pytest.raises(ConfigError, match="two has 2 labels"):
        learn(course(), tmp_path / "d.safetensors")


# The command

OWN = """
model: scenes_resnet
dataset: scenes
train: scenes_train
validation: scenes_hard
epochs: 1
batch_size: 4
learning_rate: 0.01
"""
SINGLE = ["dataset.objects=[1,1]", "train.objects=[1,1]", "train.cue_share=0"]
FEW = ["train.limit=8", "validation.limit=4", "limit=4", "compute.device=cpu"]


def test_weights_to_begin_with_are_the_recipes(own: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Given as the model's they would be overwritten: refused, with the setting that is meant."""
    assert call([*own, "model.weights=mine.safetensors"]) == 2
    assert "model.weights=mine.safetensors: the weights that a training" in (said := capsys.readouterr().err)
    assert "recipe.start=FILE" in said


@pytest.fixture
def own(tmp_path: Path) -> list[str]:
    """A folder of configs with a recipe for drawn scenes of one object."""
    (tmp_path / "conf/recipe").mkdir(parents=True)
    (tmp_path / "conf/recipe/mine.yaml").write_text(OWN)
    return ["train", "mine", "--config-dir", str(tmp_path / "conf"), *SINGLE, *FEW, "--out", str(tmp_path / "w")]


def test_the_command_trains_by_an_own_recipe(
    own: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights that the model's config then reads; the same command says it again; a change of the recipe is refused."""
    assert call(own) == 0
    said = capsys.readouterr().out
    assert "mine: accuracy" in said and "1 epochs" in said and "model=scenes_resnet model.weights=FILE" in said
    file = tmp_path / "w/mine.safetensors"
    assert call(["validate", "model=scenes_resnet", f"model.weights={file}", "model.sha256=null"]) == 0
    capsys.readouterr()
    assert call(own) == 0 and "mine: accuracy" in capsys.readouterr().out
    assert call([*own, "recipe.learning_rate=0.02"]) == 2
    assert "learning_rate=0.01 there and 0.02 here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["cifar_resnet20"], "Did you mean cifar_resnet20_"),
        (["cifar_resnet20_seed"], "no-data/cifar10"),
        (["scenes_vgg", "recipe.epochs=1"], "recipe.epochs=1: scenes_vgg is trained in one way"),
        (["cifar_resnet20_seed", "recipe.epoch=1"], "Did you mean epochs?"),
        (["cifar_resnet20_seed", "dataset@train=cifar10_trane"], "Did you mean cifar10_train"),
    ],
)
def test_requests_that_cannot_be_met(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and one line that names the thing: a missing data set says where it is looked for."""
    monkeypatch.setenv("ASSAY_DATA", str(tmp_path / "no-data"))
    assert call(["train", *words, "--out", str(tmp_path / "w")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "w").exists()
