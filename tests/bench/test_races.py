"""The modules of `make bench`: all can be imported, so that an hour of races does not end at the second."""

from importlib import import_module
from pathlib import Path

import pytest

import bench

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
