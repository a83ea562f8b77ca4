"""Who may import whom (DESIGN, section 2), and what may stand in no file."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("harness", "methods", "metrics", "datasets")
CONTRACTS = {"harness.types", "harness.network", "harness.stats", "harness.curves", "harness.detection"}
# Geometry of frames: ground truth is rasterised by the code that metrics read it with; images are blurred as maps are.
ALSO = {"datasets.annotations": {"harness.frames"}, "metrics.pixel_ranks": {"harness.frames"}}


class Import(NamedTuple):
    """One import of a project module: who, whom, and whether it happens when the importer is imported."""

    importer: str
    imported: str
    at_import: bool


def modules() -> dict[str, Path]:
    """Dotted name -> file, packages without their `.__init__`."""
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in files]
    return dict(zip(names, files, strict=True)) | {"run": ROOT / "run.py"}


MODULES = modules()


def _imported(node: ast.stmt, importer: str) -> Iterator[str]:
    """Dotted names that a statement imports; `from package import module` names the module."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            package = importer.split(".") if MODULES[importer].name == "__init__.py" else importer.split(".")[:-1]
            base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
        for alias in node.names:
            whole = f"{base}.{alias.name}"
            yield whole if whole in MODULES else base


def _statements(tree: ast.AST, inside: bool = False) -> Iterator[tuple[ast.stmt, bool]]:
    """Every statement, and whether it stands inside a function or under `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        deferred = inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        deferred = deferred or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        if isinstance(node, ast.stmt):
            yield node, deferred
        yield from _statements(node, deferred)


def imports() -> list[Import]:
    """All imports of project modules by project modules."""
    found = []
    for name, path in MODULES.items():
        for statement, deferred in _statements(ast.parse(path.read_text(), str(path))):
            for imported in _imported(statement, name):
                if imported.split(".")[0] in PACKAGES:
                    found.append(Import(name, imported, not deferred))
    return found


IMPORTS = imports()


def family(module: str) -> str:
    """Top-level package."""
    return module.split(".")[0]


def test_the_tree_was_read() -> None:
    """The checks below would pass on nothing."""
    assert {"harness.network", "harness.types", "methods.attribution.cam", "datasets.images", "run"} <= MODULES.keys()
    assert Import("harness.types", "harness.network", True) in IMPORTS
    assert Import("run", "harness.launch", False) in IMPORTS
    assert len(IMPORTS) > 50


def test_imports_name_modules_that_exist() -> None:
    """A dotted name of ours is a file of ours."""
    assert [each for each in IMPORTS if each.imported not in MODULES] == []


@pytest.mark.parametrize("package", ["methods", "metrics", "datasets"])
def test_families_import_contracts_and_their_own_alone(package: str) -> None:
    """harness.types, .network, .stats, .detection and the family itself; ground truth also .frames. Not each other."""
    wrong = [
        each
        for each in IMPORTS
        if family(each.importer) == package
        and family(each.imported) != package
        and each.imported not in CONTRACTS | ALSO.get(each.importer, set())
    ]
    assert wrong == []


def test_the_harness_names_no_method_metric_or_dataset() -> None:
    """It reaches them through configs alone, at import and inside functions; and run.py imports the harness alone."""
    assert [each for each in IMPORTS if family(each.importer) == "harness" and family(each.imported) != "harness"] == []
    assert [each for each in IMPORTS if each.importer == "run" and family(each.imported) != "harness"] == []
    assert [each for each in IMPORTS if each.imported == "run"] == []


def test_no_import_goes_in_a_circle() -> None:
    """Not at import, and (but for a program's own entry point) not inside functions either."""
    graph: dict[str, set[str]] = {name: set() for name in MODULES}
    for each in IMPORTS:
        graph[each.importer].add(each.imported)
    state: dict[str, str] = {}

    def visit(module: str, path: list[str]) -> list[str]:
        state[module] = "open"
        for other in sorted(graph[module]):
            if state.get(other) == "open":
                return [*path[path.index(other) :], other]
            if other not in state and (circle := visit(other, [*path, other])):
                return circle
        state[module] = "done"
        return []

    for module in sorted(graph):
        assert module in state or visit(module, [module]) == []


def test_contracts_import_nothing_particular() -> None:
    """What everything may import stays at the bottom: the contracts import one another, frames and the graph alone."""
    allowed = CONTRACTS | {"harness.frames", "harness.graph"}
    assert [each for each in IMPORTS if each.importer in allowed and each.imported not in allowed] == []


def test_torchvision_is_imported_late() -> None:
    """Only inside functions, and only in harness.models and dataset or transform code."""
    for name, path in MODULES.items():
        for statement, deferred in _statements(ast.parse(path.read_text())):
            if any(imported.split(".")[0] == "torchvision" for imported in _imported(statement, name)):
                assert deferred, f"{name} imports torchvision at import"
                assert name == "harness.models" or family(name) == "datasets", name


def test_no_module_of_odds_and_ends() -> None:
    """A newcomer finds the room for a line by the folder's name: no utils, helpers, misc, common."""
    odds = {"utils", "util", "helpers", "helper", "misc", "common", "tools"}
    assert [name for name in MODULES if odds & set(name.split("."))] == []


# Files


def tracked() -> list[Path]:
    """Files of the repository: committed, or new and not ignored."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs git and a checkout ({error})")
    return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]


# Written so that this file does not find itself.
HOSTS = re.compile(
    "|".join([r"pypi\.or[g]", r"pythonhosted\.or[g]", r"download\.pytorch\.or[g]/whl", r"artifactor[y]"])
)
OPTIONS = re.compile(r"--(extra-)?index-ur[l]|--find-link[s]|--trusted-hos[t]|PIP_INDEX_UR[L]|^\s*-i\s+http", re.M)


def test_no_file_names_a_package_index() -> None:
    """Where packages come from is the machine's business: no registry host, no index option in any file."""
    found = []
    for path in tracked():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue  # pictures, weights
        found += [f"{path.relative_to(ROOT)}: {m.group()}" for p in (HOSTS, OPTIONS) for m in p.finditer(text)]
    assert found == []


def test_no_large_file() -> None:
    """At most 1.5 MB each: the embedded networks are 1 MB together, everything else is text or a small picture."""
    assert [str(path.relative_to(ROOT)) for path in tracked() if path.stat().st_size > 1_500_000] == []


def test_results_hold_data_and_no_code() -> None:
    """And no data loads as a program: no pickles anywhere."""
    names = [path.relative_to(ROOT) for path in tracked()]
    assert [name for name in names if name.parts[0] == "results" and name.suffix in (".py", ".sh", ".ipynb")] == []
    assert [name for name in names if name.suffix in (".pkl", ".pickle", ".pt", ".pth", ".joblib")] == []
