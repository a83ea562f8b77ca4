"""The package of docs/examples/plugin as pip leaves it, without pip."""

import shutil
import sys
import tomllib
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[1] / "docs/examples/plugin"


def install_example(site: Path) -> None:
    """Its files, and what its pyproject.toml says of name, version and entry points, in a folder for Python's path."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    shutil.copytree(EXAMPLE / "assay_example", site / "assay_example", ignore=shutil.ignore_patterns("__pycache__"))
    about = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = project["entry-points"].items()
    lines = [[f"[{group}]", *(f"{name} = {value}" for name, value in points.items())] for group, points in groups]
    (about / "entry_points.txt").write_text("\n".join(line for group in lines for line in group) + "\n")


def forget_example() -> None:
    """Forget that it was imported, and from where."""
    for name in [name for name in sys.modules if name.split(".")[0] == "assay_example"]:
        del sys.modules[name]
