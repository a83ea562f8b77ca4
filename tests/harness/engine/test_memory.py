"""How many images go through a network together: counted by hand, and from a GPU's free memory that is made up."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from assay.harness import launch
from assay.harness.attribution.run import AttributionRun
from assay.harness.config import ConfigError
from assay.harness.engine import memory, request
from assay.harness.engine.costs import Outcome
from assay.harness.engine.memory import Together, free_bytes, kept_bytes, largest_power, together, within_memory
from assay.harness.engine.request import Request
from assay.harness.network import Network
from assay.harness.overrides import compose_config
from assay.harness.results import gate
from pretend_device import ELSEWHERE, PretendDevice
from torch import Tensor, nn

STATISTICS = ([0.0] * 3, [1.0] * 3)
IMAGE = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
KEPT = 4 * (3 * 64 + 4 * 64 + 4)  # bytes: the convolution's input, the ReLU's output, the classes


class Toy(nn.Module):
    """A convolution, a ReLU, a mean, an exponential."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).relu_().mean((2, 3)).exp()


def toy() -> Network:
    return Network(Toy(), *STATISTICS)


def test_kept_bytes_by_hand() -> None:
    """What autograd keeps, each memory once: the ReLU writes in place, its mean keeps nothing; no weights."""
    assert kept_bytes(toy(), IMAGE) == KEPT
    large = torch.rand(3, 16, 16)
    assert kept_bytes(toy(), large) == 4 * (3 * 256 + 4 * 256 + 4)


def test_memory_that_is_used_again_is_counted_again() -> None:
    """Ten convolutions: the input and nine maps, though each would be freed before the last is made."""
    layers = [nn.Conv2d(3 if first else 8, 8, 3, padding=1, bias=False) for first in [True] + 9 * [False]]
    deep = Network(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), *STATISTICS)
    assert kept_bytes(deep, IMAGE) >= 4 * (3 * 64 + 9 * 8 * 64)


def test_powers() -> None:
    assert [largest_power(n) for n in (-1, 0, 1, 2, 3, 4, 63, 64, 100)] == [1, 1, 1, 2, 2, 4, 32, 64, 64]


@pytest.mark.parametrize(
    ("fits", "images"), [(0.5, 1), (1, 1), (5.9, 4), (8, 8), (63.9, 32), (1e6, 64)], ids="{0}".format
)
def test_as_many_as_fit_into_half_of_what_is_free(fits: float, images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four times what the backward pass reads; at most 64, at least one; said with the figures."""
    free = int(fits * memory.COPIES * KEPT / memory.SHARE)
    monkeypatch.setattr(memory, "free_bytes", lambda device: free)
    found = together("auto", toy(), IMAGE)
    assert found.images == images
    assert f"compute.batch_size=auto is {images}: " in found.why and "GiB free" in found.why
    assert together(7, toy(), IMAGE) == Together(7)


def test_on_the_cpu_it_is_a_constant_and_without_gradients_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert together("auto", toy(), IMAGE) == Together(16, "compute.batch_size=auto is 16 on cpu")

    class Unseen(Toy):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                return super().forward(x)

    monkeypatch.setattr(memory, "free_bytes", lambda device: 2**40)
    found = together("auto", Network(Unseen(), *STATISTICS), IMAGE)
    assert found == Together(16, "compute.batch_size=auto is 16, as the network keeps nothing for a backward pass")


def test_free_memory_is_what_torch_holds_unused_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 free, of 50 that torch has reserved 20 are in use: 130. Queries of a GPU that is not there."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 50)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 20)
    assert free_bytes(torch.device("cuda")) == 130
    assert free_bytes(torch.device("cpu")) is None


def test_work_is_begun_again_with_half(capsys: pytest.CaptureFixture[str]) -> None:
    """Until it fits, said each time; another error is not caught, and of one image memory's neither."""
    outcome, seen = Outcome(batch_size=16), list[int]()

    def work() -> str:
        seen.append(outcome.batch_size)
        if outcome.batch_size > 4:
            raise torch.OutOfMemoryError("planted")
        return "done"

    assert within_memory(outcome, work) == "done" and seen == [16, 8, 4]
    assert capsys.readouterr().out.count("out of memory: going on with compute.batch_size=") == 2

    def never() -> None:
        raise torch.OutOfMemoryError("planted")

    with pytest.raises(torch.OutOfMemoryError):
        within_memory(outcome, never)
    assert outcome.batch_size == 1

    def broken() -> None:
        raise RuntimeError("another")

    with pytest.raises(RuntimeError, match="another"):
        within_memory(Outcome(batch_size=8), broken)


WORDS = [
    *("limit=5", "method=[gradcam,rise]", "method.rise.masks=10", "metric=[pointing_game,energy_pointing_game]"),
    *("compute.device=cpu", "compute.processes=1"),
]


def _run(folder: Path, *overrides: str) -> pd.DataFrame:
    words = [*WORDS, f"results={folder}", *overrides]
    assert launch.run(compose_config(words), words) == 0
    return pd.read_csv(folder / "tidy/runs.csv")


def test_a_run_settles_it_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a pretended device with room for two images: so in runs.csv and in the log; keys are the same, and numbers to
    rounding."""
    _run(tmp_path / "here")
    monkeypatch.setattr(request, "pick_device", lambda name: ELSEWHERE)
    monkeypatch.setattr(memory, "kept_bytes", lambda network, image: 100)
    monkeypatch.setattr(memory, "free_bytes", lambda device: int(2.5 * 100 * memory.COPIES / memory.SHARE))
    capsys.readouterr()
    with PretendDevice():
        runs = _run(tmp_path / "there", "compute.batch_size=auto")
    assert "compute.batch_size=auto is 2: " in capsys.readouterr().out
    assert runs["batch_size"].unique().tolist() == [2]
    found = gate.check(tmp_path / "here", tmp_path / "there")
    assert len(found.findings) == 4 and not found.wrong, gate.lines(found)
    keys = [pd.read_csv(tmp_path / side / "tidy/results.csv")["cell_key"].tolist() for side in ("here", "there")]
    assert keys[0] == keys[1]


def test_what_the_helpers_are_told_is_a_number(tmp_path: Path) -> None:
    """They make the job anew from the config, and must not look at memory again."""
    run = AttributionRun.of(Request.of(compose_config([*WORDS, "compute.batch_size=auto"]), tmp_path))
    assert run.request.config.compute.batch_size == 16
    assert "compute.batch_size=auto is 16 on cpu" in list(run.describe())


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["compute.batch_size=most"], "compute.batch_size=most: give a whole number of at least 1, or auto"),
        (["compute.batch_size=auto", "compute.coordination=none"], "auto with compute.coordination=none: .*give a num"),
        (["compute.batch_size=auto", "compute=ray"], "auto with compute.engine=ray: .*give a number"),
    ],
    ids=["a word", "without locks", "a cluster"],
)
def test_what_it_may_not_be(words: list[str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        compose_config(words)
