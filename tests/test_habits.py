"""What runs before a commit and on the public forge keeps up with what is pinned and promised."""

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RANGES = {made.name: made.specifier for made in map(Requirement, PROJECT["dependencies"])}
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]


def pins(name: str) -> dict[str, str]:
    """Package -> version of a requirements file."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / name).read_text(), re.M))


RUNTIME, TEST, DOCS = (pins(f"requirements{name}.txt") for name in ("", "-test", "-docs"))


def test_what_make_installs_is_what_pip_may_install() -> None:
    """Every dependency is pinned, inside its range; nothing is pinned twice."""
    assert len(RANGES) > 15
    assert [name for name, allowed in RANGES.items() if RUNTIME.get(name, "0") not in allowed] == []
    assert RUNTIME.keys() & TEST.keys() == DOCS.keys() & (RUNTIME | TEST).keys() == set()


def test_hooks_are_the_tools_that_lint_runs() -> None:
    """Another version of ruff would format what the next `make lint` refuses."""
    wanted = {name for hook in HOOKS for name in hook["additional_dependencies"] if name.startswith("ruff")}
    assert wanted == {f"ruff=={TEST['ruff']}"}
    assert {hook["id"] for hook in HOOKS} == {"ruff-check", "ruff-format", "typos", "large-files"}


def matrix() -> dict[str, Any]:
    """Of the workflow's test job."""
    return WORKFLOW["jobs"]["test"]["strategy"]["matrix"]


def test_the_workflow_runs_every_python() -> None:
    """As `requires-python` promises: all of it, nothing else."""
    allowed = SpecifierSet(PROJECT["requires-python"])
    assert matrix()["python"] == [f"3.{minor}" for minor in range(8, 20) if f"3.{minor}" in allowed]


def test_the_workflow_runs_the_oldest_and_the_pinned_torch() -> None:
    """The lower ends of the ranges, with the torchvision of that torch; and what requirements.txt has."""
    oldest, newest = matrix()["pins"]
    assert newest == {name: RUNTIME[name] for name in newest}
    for name in ("torch", "torchvision"):
        lower = next(each.version for each in RANGES[name] if each.operator == ">=")
        assert oldest[name] in SpecifierSet(f"=={lower}.*")


def test_the_workflow_replaces_each_pin() -> None:
    """Every line that it edits is in requirements.txt, and every version of the matrix is used."""
    steps = WORKFLOW["jobs"]["test"]["steps"]
    script = next(step["run"] for step in steps if "Pin" in step.get("name", ""))
    edited = dict(re.findall(r"s/\^(\w+)==\.\*/\1==\$\{\{ matrix\.pins\.(\w+) \}\}/", script))
    assert edited == {name: name for name in matrix()["pins"][0]}
    assert edited.keys() <= RUNTIME.keys()
    assert {"make PYTHON=python lint", "make PYTHON=python test"} <= {step.get("run") for step in steps}
