"""What there is: ls, describe, validate."""

import ast
import sys
from pathlib import Path

import click

from .. import config as configs
from ..arguments import config_folders
from ..config import ConfigError, groups, suggest
from ..overrides import compose_config
from ..plugins import installed, left_out
from ..results.terminal import wrapped
from ..sources import about, clashes, owner, refusals
from .options import composed, overrides_only, results, searched
from .planning import composed_run

SHORTEST_KEY = 4  # letters of a cell key that are not taken for a misspelt config


@click.command("ls")
@click.argument("group", required=False)
def list_groups(group: str | None) -> int:
    """The groups of configs and their choices.

    Then whose they are that are not ours: of a plug-in, or of --config-dir.
    """
    folders = config_folders(searched())
    known = groups(folders)
    if group is not None and group not in known:
        raise ConfigError(suggest(group, known, "group"))
    for name in known if group is None else [group]:
        print(wrapped(f"{name}: {', '.join(known[name])}"))
    for line in about(folders, group):
        print(wrapped(line))
    return 0


@click.command()
@click.argument("name", metavar="NAME")
@results()
def describe(name: str, results: Path) -> int:
    """A config with the documentation of its class, or a stored cell.

    NAME is a choice of any group, or the beginning of a cell key (looked up in --results).
    """
    folders = config_folders(searched())
    known = groups(folders)
    files = [path for folder in folders for path in sorted(folder.glob("*/*.yaml")) if path.stem == name]
    found = [path for path in files if name in known.get(path.parent.name, [])]
    for path in found:
        text = path.read_text()
        print(f"# {_place(path)}\n{text}")
        print(_documentation(text))
    if not found:
        _describe_cell(name, results / "store", folders)
    return 0


def _place(file: Path) -> str:
    """Where a config's file is, and whose, if not ours."""
    folder = file.parent.parent
    return str(file.relative_to(configs.ROOT)) if folder == configs.CONF else f"{file} of {owner(folder)}"


def _documentation(text: str) -> str:
    """The docstring of the config's `_target_`, read from its source without importing it."""
    target = next((line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("_target_:")), "")
    module, _, name = target.rpartition(".")
    place = Path(*module.removeprefix("assay.").split(".")).with_suffix(".py")
    roots = [configs.ROOT, *(root for each in installed() for root in each.roots), *map(Path, sys.path)]
    source = next((path for root in roots if (path := root / place).is_file()), None)
    nodes = [] if source is None else ast.parse(source.read_text()).body
    made = [n for n in nodes if isinstance(n, (ast.ClassDef, ast.FunctionDef)) and n.name == name]
    return f"{target}\n\n{ast.get_docstring(made[0]) or ''}\n" if made else ""


def _describe_cell(prefix: str, root: Path, folders: list[Path]) -> None:
    import json

    from ..store.survey import cells

    found = [cell for cell in cells(root) if len(prefix) >= SHORTEST_KEY and cell.key.startswith(prefix)]
    if not found:
        known = {choice for choices in groups(folders).values() for choice in choices}
        unknown = suggest(prefix, known, "config name, nor the beginning of a cell key")
        raise ConfigError("; ".join([unknown, *left_out()]))
    for cell in found:
        print(json.dumps(cell.cell(), indent=1, sort_keys=True))


@click.command()
@composed()
def validate(words: list[str]) -> int:
    """Compose and build a config without computing.

    Without overrides: compose every choice of every group, but those that are refused because two define them.
    """
    if overrides_only(words) != searched():
        print(*map(wrapped, composed_run(words).describe()), sep="\n")
        return 0
    folders = config_folders(words)
    every = [(group, choice) for group, choices in groups(folders).items() for choice in choices]
    twice = clashes(folders)
    single = [each for each in every if each not in twice]
    for group, choice in single:
        value = f"[{choice}]" if group in configs.LIST_GROUPS else choice
        compose_config([*words, f"{group}={value}"])
    print(f"{len(single)} configs compose", *map(wrapped, refusals(folders)), sep="\n")
    return 0
