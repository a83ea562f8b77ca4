"""Folders of configs: ours, those of plug-ins, a user's own. Whose a name is, and that no two give it. No torch."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from .config import CONF, ConfigError, groups
from .plugins import CHOOSE, NONE, installed, left_out


def standing() -> list[Path]:
    """Folders that every command knows: ours first."""
    return [CONF, *(each.conf for each in installed() if each.conf is not None)]


def owner(folder: Path) -> str:
    """Whose a folder is."""
    owners = {each.conf: str(each) for each in installed()}
    return "the project" if folder == CONF else owners.get(folder, f"--config-dir {folder}")


def clashes(folders: Sequence[Path]) -> list[tuple[str, str]]:
    """Each (group, choice) that several folders define, and not in the same words."""
    added = groups(folders[1:]) if len(folders) > 1 else {}
    return [(group, name) for group, names in added.items() for name in names if _said(group, name, folders)]


def _said(group: str, choice: str, folders: Sequence[Path]) -> str:
    """By whom a choice is defined in different words; empty where it is not."""
    files = {folder: file for folder in folders if (file := folder / group / f"{choice}.yaml").is_file()}
    return " and by ".join(map(owner, files)) if len({file.read_bytes() for file in files.values()}) > 1 else ""


def check_one(group: str, choice: str, folders: Sequence[Path]) -> None:
    """Raise ConfigError for a choice that several folders define: none of them is silently taken."""
    if said := _said(group, choice, folders):
        raise ConfigError(
            f"{group} {choice} is defined by {said}: rename one, or say which plug-ins are used "
            f"({CHOOSE}=NAME,NAME: theirs, or their packages'; {CHOOSE}={NONE}: without any)"
        )


def about(folders: Sequence[Path], group: str | None = None) -> Iterator[str]:
    """Lines for who lists choices: whose those beside ours are, which are there twice, which plug-ins are left out."""
    for folder in folders[1:]:
        held = {name: names for name, names in groups([folder]).items() if group in (None, name)}
        named = "; ".join(f"{name} {', '.join(names)}" for name, names in held.items())
        if named:
            yield f"of {owner(folder)}: {named}"
    yield from refusals(folders, group)
    yield from left_out()


def refusals(folders: Sequence[Path], group: str | None = None) -> Iterator[str]:
    """Lines for the choices, of one group or all, that are there twice."""
    for name, choice in clashes(folders):
        if group in (None, name):
            yield f"{name} {choice} is refused: it is defined by {_said(name, choice, folders)}"
