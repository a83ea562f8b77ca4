"""Who may import whom (DESIGN, section 2), how large things may be, and what may stand in no file."""

import ast
import re
import statistics
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("assay", "harness", "methods", "metrics", "datasets")

# The rooms, top to bottom. A room imports itself and the rows below it; rooms of one row do not know each other.
ROWS: tuple[dict[str, tuple[str, ...]], ...] = (
    {"entry": ("run", "assay")},
    {"commands": ("harness.__main__", "harness.console", "harness.commands")},
    {"launch": ("harness.launch",)},
    {"attribution": ("harness.attribution",), "detectors": ("harness.detectors",)},
    {"results": ("harness.results",)},
    {"engine": ("harness.engine",), "networks": ("harness.networks",)},
    {
        "store": ("harness.store",),
        "door": (
            "harness.config",
            "harness.arguments",
            "harness.composing",
            "harness.overrides",
            "harness.plugins",
            "harness.sources",
            "harness.untrusted",
            "harness.reading",
            "harness.values",
            "harness.build",
        ),
        "methods": ("methods",),
        "metrics": ("metrics",),
        "datasets": ("datasets",),
    },
    {
        "contracts": (
            "assay.version",
            "harness.types",
            "harness.places",
            "harness.network",
            "harness.forward",
            "harness.heads",
            "harness.graph",
            "harness.exporting",
            "harness.cutting",
            "harness.ending",
            "harness.affine",
            "harness.layouts",
            "harness.patches",
            "harness.trunk",
            "harness.modules",
            "harness.outputs",
            "harness.reduced",
            "harness.frames",
            "harness.stats",
            "harness.failures",
            "harness.choices",
            "harness.counts",
            "harness.curves",
            "harness.inside",
            "harness.pixels",
            "harness.detection",
            "harness.training",
            "harness.noise",
            "harness.seeds",
            "harness.transfer",
        ),
        "pictures": ("harness.pictures",),
    },
)
# Reached through configs (`_target_`) alone; but one command trains the embedded networks.
BY_CONFIG: dict[str, set[str]] = {"methods": set(), "metrics": set(), "datasets": set(), "networks": {"commands"}}

HEIGHT = {room: row for row, rooms in enumerate(ROWS) for room in rooms}
ROOM = {prefix: room for rooms in ROWS for room, prefixes in rooms.items() for prefix in prefixes}


class Import(NamedTuple):
    """One import of a project module: who, whom, and whether it happens when the importer is imported."""

    importer: str
    imported: str
    at_import: bool


def modules() -> dict[str, Path]:
    """Dotted name (as in the folders at the top: `harness.types`) -> file, packages without their `.__init__`."""
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in files]
    return dict(zip(names, files, strict=True)) | {"run": ROOT / "run.py"}


MODULES = modules()


def family(module: str) -> str:
    """Folder at the top."""
    return module.split(".")[0]


def room(module: str) -> str:
    """The room of a module, by its longest prefix in ROWS; empty if none has it."""
    parts = module.split(".")
    prefixes = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return next((ROOM[prefix] for prefix in prefixes if prefix in ROOM), "")


def _ours(name: str) -> str:
    """`assay.harness.types` -> `harness.types`: what is imported under the one name lies in a folder at the top."""
    below = name.removeprefix("assay.")
    return below if family(below) in PACKAGES[1:] else name


def _base(node: ast.ImportFrom, importer: str) -> str:
    """The dotted name after `from`, relative ones resolved."""
    if not node.level:
        return node.module or ""
    package = importer.split(".") if MODULES[importer].name == "__init__.py" else importer.split(".")[:-1]
    return ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])


def _imported(node: ast.stmt, importer: str) -> Iterator[str]:
    """Dotted names that a statement imports; `from package import module` names the module."""
    if isinstance(node, ast.Import):
        yield from (_ours(alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = _base(node, importer)
        for alias in node.names:
            whole = _ours(f"{base}.{alias.name}")
            yield whole if whole in MODULES else _ours(base)


def _statements(tree: ast.AST, inside: bool = False) -> Iterator[tuple[ast.stmt, bool]]:
    """Every statement, and whether it stands inside a function or under `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.expr):
            continue  # holds none
        deferred = inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        deferred = deferred or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        if isinstance(node, ast.stmt):
            yield node, deferred
        yield from _statements(node, deferred)


@cache
def trees() -> dict[str, ast.Module]:
    """Every module, parsed once and when the first test asks."""
    return {name: ast.parse(path.read_text(), str(path)) for name, path in MODULES.items()}


@cache
def every() -> list[Import]:
    """Every import of every module."""
    return [
        Import(name, imported, not deferred)
        for name, tree in trees().items()
        for statement, deferred in _statements(tree)
        for imported in _imported(statement, name)
    ]


@cache
def imports() -> list[Import]:
    """Those of modules of ours."""
    return [each for each in every() if family(each.imported) in PACKAGES]


def test_the_tree_was_read() -> None:
    """The checks below would pass on nothing: relative and absolute imports, at import and late."""
    assert {"harness.network", "methods.attribution.cam", "datasets.images", "assay.console", "run"} <= MODULES.keys()
    assert Import("harness.types", "harness.forward", True) in imports()  # from .forward import ...
    assert Import("harness.engine.evaluate", "harness.store.store", True) in imports()  # from ..store.store import ...
    assert Import("methods.attribution.cam", "harness.types", True) in imports()  # from assay.harness.types import ...
    assert Import("harness.console", "harness.launch", False) in imports()  # inside a function
    assert len(imports()) > 200


def test_imports_name_modules_that_exist() -> None:
    """A dotted name of ours is a file of ours."""
    assert [each for each in imports() if each.imported not in MODULES] == []


def test_everything_is_imported_by_its_one_name() -> None:
    """`harness.types` beside `assay.harness.types` would be a second copy, and in a wheel nothing."""
    bare = []
    for path in [*MODULES.values(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "bench").rglob("*.py")]:
        for node, _ in _statements(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            bare += [f"{path.relative_to(ROOT)}:{node.lineno}" for name in names if family(name) in PACKAGES[1:]]
    assert bare == []


# Rooms


def points_up(each: Import) -> bool:
    """Whether an import goes to a room above, beside, or reached through configs alone."""
    above, below = room(each.importer), room(each.imported)
    if above == below:
        return False
    hidden = below in BY_CONFIG and above not in BY_CONFIG[below]
    return hidden or HEIGHT[below] <= HEIGHT[above]


@pytest.mark.parametrize(
    ("importer", "imported", "wrong"),
    [
        ("harness.launch", "harness.engine.job", False),
        ("harness.engine.job", "harness.launch", True),
        ("harness.attribution.estimate", "harness.detectors.plan", True),
        ("harness.detectors.plan", "harness.results.tidy", False),
        ("harness.store.store", "harness.config", True),
        ("harness.results.tidy", "methods.attribution.cam", True),
        ("metrics.ood", "methods.ood.knn", True),
        ("metrics.ood", "harness.store.store", True),
        ("metrics.ood", "harness.frames", False),
        ("harness.launch", "harness.networks.train", True),
        ("harness.commands.stored", "harness.networks.train", False),
        ("harness.types", "harness.config", True),
        ("harness.types", "harness.seeds", False),
        ("harness.curves", "harness.pictures", True),
        ("datasets.contact_sheet", "harness.pictures", False),
        ("harness.launch", "assay", True),
        ("harness.results.environment", "assay.version", False),
        ("assay.console", "harness.console", False),
    ],
)
def test_the_rule_tells_arrows_apart(importer: str, imported: str, wrong: bool) -> None:
    """By hand: down is right; up, beside and past the configs is wrong."""
    assert points_up(Import(importer, imported, True)) is wrong


def test_every_module_has_a_room() -> None:
    """A new file directly in harness/ is a contract, or belongs elsewhere; every room but those to come is there."""
    assert [name for name in MODULES if not room(name)] == []


def test_arrows_between_rooms_point_down() -> None:
    """At import and inside functions alike."""
    wrong = {f"{each.importer} -> {each.imported}" for each in imports() if points_up(each)}
    assert sorted(wrong) == []


def test_no_import_goes_in_a_circle() -> None:
    """Not at import, and (but for a program's own entry point) not inside functions either."""
    graph: dict[str, set[str]] = {name: set() for name in MODULES}
    for each in imports():
        graph[each.importer] |= {each.imported} & MODULES.keys()
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


SLOW = {"torch", "torchvision", "pandas", "scipy", "sklearn", "matplotlib", "pyarrow"}


@pytest.mark.parametrize("entry", ["run", "assay", "assay.__main__", "harness.__main__"])
def test_help_waits_for_no_library(entry: str) -> None:
    """What a command imports before it knows what is asked: no torch, no pandas (seconds)."""
    reached, waiting = set[str](), [entry, "assay"]
    while waiting:
        module = waiting.pop()
        reached.add(module)
        waiting += [i.imported for i in imports() if i.importer == module and i.at_import and i.imported not in reached]
    slow = [i for i in every() if i.importer in reached and i.at_import and family(i.imported) in SLOW]
    assert slow == []


def test_torchvision_is_imported_late() -> None:
    """Only inside functions, and only where networks are loaded and data sets read."""
    found = [each for each in every() if family(each.imported) == "torchvision"]
    assert found
    assert [each for each in found if each.at_import] == []
    assert [each for each in found if room(each.importer) not in ("networks", "datasets")] == []


def test_no_module_of_odds_and_ends() -> None:
    """A newcomer finds the room for a line by the folder's name: no utils, helpers, misc, common."""
    odds = {"utils", "util", "helpers", "helper", "misc", "common", "tools"}
    assert [name for name in MODULES if odds & set(name.split("."))] == []


def test_tests_mirror_the_tree() -> None:
    """A folder of tests is named after the folder that it tests."""
    folders = [path for package in PACKAGES for path in (ROOT / "tests" / package).rglob("*") if path.is_dir()]
    names = [path.relative_to(ROOT / "tests") for path in folders if path.name != "__pycache__"]
    assert [str(name) for name in names if not (ROOT / name).is_dir()] == []


def test_no_two_test_files_share_a_name() -> None:
    """Test folders are no packages: pytest knows a file by its name alone."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


# The disk format

DISK = re.compile(r"DONE-|FAILED\.json|cell\.json|group\.json|(?<!results)\.parquet\b")  # results.parquet is people's


def _strings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of string constants, also inside f-strings, without docstrings."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, documented) and ast.get_docstring(node)]
    docstrings = {id(body[0].value) for body in bodies if isinstance(body[0], ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


def disk_names(tree: ast.AST) -> list[int]:
    """Lines that spell a file name or a marker of the store's format."""
    return [line for line, text in _strings(tree) if DISK.search(text)]


def test_the_search_finds_disk_names() -> None:
    """In f-strings and patterns too; prose may speak of them."""
    text = (
        '"""Reads cell.json."""\nfirst = path / "cell.json"\nname = f"DONE-{stop}.json"\nfound = path.glob("*.parquet")'
    )
    assert disk_names(ast.parse(text)) == [2, 3, 4]


def test_the_disk_format_is_known_to_the_store_alone() -> None:
    """A change of a file name or marker is a change in harness/store/ and nowhere else (users' parquet apart)."""
    ask = {name: tree for name, tree in trees().items() if room(name) not in ("store", "datasets")}
    found = [f"{MODULES[name].relative_to(ROOT)}:{line}" for name, tree in ask.items() for line in disk_names(tree)]
    assert found == []


# Sizes


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the last, both counted, blank lines and comments too, without the docstring's."""
    first = function.body[0]
    told = (first.end_lineno or 0) - first.lineno + 1 if ast.get_docstring(function) is not None else 0
    return (function.end_lineno or 0) - function.lineno + 1 - told


def test_functions_of_the_harness_are_small() -> None:
    """Median of at most 6 lines, nine of ten at most 16 (`_length`)."""
    harness = [tree for name, tree in trees().items() if family(name) == "harness"]
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    lengths = [_length(node) for tree in harness for node in ast.walk(tree) if isinstance(node, kinds)]
    assert len(lengths) > 300
    assert statistics.median(lengths) <= 6
    assert statistics.quantiles(lengths, n=10)[-1] <= 16


def test_files_of_the_harness_are_short() -> None:
    """At most 300 lines: a longer one holds two ideas."""
    lines = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in (ROOT / "harness").rglob("*.py")}
    assert [f"{path}: {count} lines" for path, count in sorted(lines.items()) if count > 300] == []


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
    """At most 1.5 MB each: the embedded networks are 1.4 MB together, everything else is text or a small picture."""
    assert [str(path.relative_to(ROOT)) for path in tracked() if path.stat().st_size > 1_500_000] == []


def test_results_hold_data_and_no_code() -> None:
    """And no data loads as a program: no pickles anywhere."""
    names = [path.relative_to(ROOT) for path in tracked()]
    assert [name for name in names if name.parts[0] == "results" and name.suffix in (".py", ".sh", ".ipynb")] == []
    assert [name for name in names if name.suffix in (".pkl", ".pickle", ".pt", ".pth", ".joblib")] == []


# What the pages name

PAGES = ("docs/structure.md", "CONTRIBUTING.md")
PATH = re.compile(r"(?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:py|md|toml|txt|yaml|yml)")
MADE = ("results/store", "results/tidy", "results/runs", "results/report", "build/")  # by runs and by make


def named(page: Path) -> list[tuple[str, str]]:
    """(path, name in it) that a page writes as `path` or `path:name`; placeholders such as <name> are none."""
    spans = re.findall(r"`([^`\s]+)`", page.read_text())
    parts = [span.partition(":") for span in spans]
    return [(path, name) for path, _, name in parts if PATH.fullmatch(path) and not path.startswith(MADE)]


def test_a_page_names_paths_and_functions() -> None:
    """The check below would pass on nothing."""
    assert ("harness/store/store.py", "Group.write") in named(ROOT / "docs/structure.md")
    assert ("tests/test_layout.py", "") in named(ROOT / "CONTRIBUTING.md")


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_is_there(page: str) -> None:
    """Every path, and of `path:name` the function or class: a page that walks through the house must not rot."""
    gone = []
    for path, name in named(ROOT / page):
        if not (ROOT / path).exists():
            gone.append(path)
        elif name:
            kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
            made = {node.name for node in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(node, kinds)}
            gone += [f"{path}:{each}" for each in name.split(".") if each not in made]
    assert gone == []
