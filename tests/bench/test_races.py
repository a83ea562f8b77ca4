"""The modules of `make bench`: all can be imported, so that an hour of races does not end at the second."""

import sys
from functools import partial
from importlib import import_module
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

import bench
from bench.floors.subject import Subject
from bench.timing import race
from bench.transformer_peers import FOLDER, peer_of

PEERS = ("pytorch_grad_cam", "quantus")  # of requirements-bench.txt alone
MODULES = sorted(path.stem for path in Path(bench.__path__[0]).glob("*.py") if not path.stem.startswith("_"))


@pytest.mark.parametrize("name", MODULES)
def test_it_is_imported(name: str) -> None:
    try:
        import_module(f"bench.{name}")
    except ModuleNotFoundError as error:
        if error.name not in PEERS:
            raise
        pytest.skip(f"{error.name} is of requirements-bench.txt")


def test_a_race_by_a_clock_of_ones_own() -> None:
    """One that ticks once a call: every contestant takes 1, as often as the floor."""
    table = race("a task", {"floor": list, "assay": list}, rounds=3, clock=partial(next, count()))
    assert table[["median_s", "ratio_to_floor"]].to_numpy().tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize(
    ("method", "missing"),
    [("cp_lrp", "lxt"), ("transformer_attribution", "baselines"), ("gradcam", "pytorch_grad_cam")],
)
def test_a_peer_that_is_not_there_says_so(method: str, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether or not it is: no such module, and no folder of Chefer et al.'s code."""
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delenv(FOLDER, raising=False)
    name, run = peer_of(method, cast(Subject, SimpleNamespace(network=SimpleNamespace(module=None))))
    assert run is None and ": not there (" in name
    assert peer_of("legrad", cast(Subject, None)) == ("", None)
