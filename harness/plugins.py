"""Installed packages that add to what there is, found by their entry points and not imported. Imports no torch.

A package names itself in its pyproject.toml:

    [project.entry-points."assay.plugins"]
    example = "assay_example"

Its folder `conf` then stands beside ours on every command's search path, and configs may name its classes, which are
imported when one is chosen and not before.
"""

import os
import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from .config import ConfigError, suggest

GROUP = "assay.plugins"  # of entry points
CHOOSE = "ASSAY_PLUGINS"  # variable of the environment: who is used, by `Plugin.names`, or NONE; all, if it is not set
NONE = "none"


class Plugin(NamedTuple):
    """One entry point.

    module: the package that it names. release: the distribution that it came with, and its version. conf: the package's
    folder of configs; None, with `why`, where there is none.
    """

    name: str
    module: str
    release: str
    conf: Path | None
    why: str = ""

    @property
    def prefix(self) -> str:
        """What the `_target_`s begin with that a config may name because of it."""
        return f"{self.module}."

    @property
    def package(self) -> str:
        """What pip calls it. No two have one; two entry points may be called alike."""
        return self.release.split()[0]

    @property
    def names(self) -> set[str]:
        """What ASSAY_PLUGINS may call it."""
        return {self.name, self.package}

    @property
    def roots(self) -> list[Path]:
        """The folder that its package is imported from, which is on no path if it is installed to be edited."""
        return [] if self.conf is None else [self.conf.parents[1 + self.module.count(".")]]

    def __str__(self) -> str:
        return f"plug-in {self.name} ({self.release})"


# Finding


def installed() -> tuple[Plugin, ...]:
    """The plug-ins that are used: with a folder of configs, and of those that ASSAY_PLUGINS names.

    Raises:
        ConfigError: ASSAY_PLUGINS names another.
    """
    return tuple(each for each in _chosen() if each.conf is not None)


def left_out() -> list[str]:
    """What is wrong with each of the others, and the mend."""
    return [
        f"{each} is left out: {each.why}; install it anew, or pip uninstall {each.package}"
        for each in _chosen()
        if each.conf is None
    ]


def _chosen() -> list[Plugin]:
    every, wanted = _found(tuple(sys.path)), os.environ.get(CHOOSE, "").replace(",", " ").split()
    if wanted == [NONE]:
        return []
    known = {name for each in every for name in each.names}
    if unknown := [name for name in wanted if name not in known]:
        raise ConfigError(f"{CHOOSE}={','.join(wanted)}: {suggest(unknown[0], {*known, NONE}, 'plug-in')}")
    return [each for each in every if not wanted or each.names.intersection(wanted)]


@cache
def _found(_path: tuple[str, ...]) -> tuple[Plugin, ...]:
    """Every entry point of the group; _path: sys.path, on which they depend."""
    return tuple(sorted(map(_read, entry_points(group=GROUP)), key=str))


def _read(point: EntryPoint) -> Plugin:
    release = f"{point.dist.name} {point.dist.version}" if point.dist else "? ?"
    found = _conf_of(point.value)
    conf, why = (found, "") if isinstance(found, Path) else (None, found)
    return Plugin(point.name, point.value, release, conf, why)


def _conf_of(module: str) -> Path | str:
    """The folder `conf` of a package, or why there is none. The package is not run: it may take seconds, or fail."""
    top, *below = module.split(".")
    if not all(word.isidentifier() for word in (top, *below)):
        return f"its entry point is {module!r}, and not a package's name alone"
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return f"there is no package {top}"
    places = [Path(place, *below) for place in spec.submodule_search_locations or ()]
    found = (place / "conf" for place in places if (place / "conf").is_dir())
    return next(found, f"{module} has no folder conf" if places else f"{module} is one file, and no package with conf/")


# Hydra


class InstalledConfigs(SearchPathPlugin):
    """Tells Hydra of the folders of plug-ins, whoever composes a config."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Behind ours; of a name that both have, neither is taken (`sources.check_one`)."""
        for each in installed():
            search_path.append(str(each), f"file://{each.conf}")


def register_search() -> None:
    """Make the folders of plug-ins known to Hydra."""
    Plugins.instance().register(InstalledConfigs)
