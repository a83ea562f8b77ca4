"""The options of a command line, told apart from its overrides. Imports no torch."""

import os
import shlex
from argparse import ArgumentError, ArgumentParser, Namespace
from collections.abc import Sequence
from functools import cache
from itertools import chain, dropwhile
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser

from .config import ConfigError
from .sources import standing

ONLY_CONFIG = "a run's config is conf/config.yaml; --config-dir FOLDER adds choices, which experiment=NAME composes"
REFUSED = {  # of Hydra's options
    "config_name": ONLY_CONFIG,
    "config_path": ONLY_CONFIG,
    "experimental_rerun": "it reads a pickle, which can run any code; give the overrides again",
}

# Variables of the environment that a command reads: always, and those by which an engine finds its cluster.
READ = ("ASSAY_DATA", "ASSAY_WEIGHTS", "ASSAY_PLUGINS")
READ_BY = {"ray": ("RAY_ADDRESS",), "slurm": ("SLURM_CONF",)}
SET = {*READ, *chain.from_iterable(READ_BY.values())}


def parsed_options(arguments: Sequence[str]) -> Namespace:
    """Hydra's options, wherever they stand, and `overrides`.

    Raises:
        ConfigError: an option that is unknown, lacks its value, or goes past what is checked here.
    """
    try:
        asked = _parser().parse_intermixed_args(list(arguments))
    except ArgumentError as error:
        _refuse(str(error))
    for name, why in REFUSED.items():
        if getattr(asked, name, None) is not None:
            raise ConfigError(f"--{name.replace('_', '-')}: {why}")
    if asked.config_dir is not None and not Path(asked.config_dir).is_dir():
        raise ConfigError(f"--config-dir {asked.config_dir}: no folder is there")
    return asked


@cache
def _parser() -> ArgumentParser:
    parser: ArgumentParser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    return parser


def _refuse(message: str) -> NoReturn:
    raise ConfigError(f"{message} (see run.py --help)")


def options_first(arguments: Sequence[str]) -> list[str]:
    """The same command line in the order in which Hydra reads it."""
    options, overrides = list(arguments), parsed_options(arguments).overrides
    for word in overrides:
        options.remove(word)
    return [*options, *overrides]


def config_folders(arguments: Sequence[str]) -> list[Path]:
    """conf/, those of plug-ins, and the folder that `--config-dir FOLDER` adds to them."""
    added = parsed_options(arguments).config_dir
    return [*standing(), *([Path(added)] if added else [])]


def take_allow_flag(arguments: list[str]) -> list[str]:
    """Strip `--allow-target PREFIX` from a command line; it lets configs name classes of your own package."""
    rest: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        if argument.split("=")[0] != "--allow-target":
            rest.append(argument)
            continue
        prefix = argument.partition("=")[2] or next(waiting, "")
        if not prefix or "=" in prefix:
            raise ConfigError("--allow-target needs a package's prefix, for example --allow-target my_methods.")
        os.environ["ASSAY_ALLOW_TARGET"] = ",".join(filter(None, [os.environ.get("ASSAY_ALLOW_TARGET"), prefix]))
    return rest


def again(command: Sequence[str], words: Sequence[str], swept: bool, engine: str = "") -> str:
    """The command for one job of a command of run.py (or of `assay run`), with the variables that it reads.

    command: as in `sys.argv`, the program first. words: the job's overrides. swept: whether it is one of several.
    engine: of `compute.engine`.
    """
    program, *arguments = command
    asked = parsed_options(arguments)
    options = options_again(asked.config_dir)
    alone = ["hydra.mode=RUN"] if swept and not asked.multirun else []  # an experiment's file says MULTIRUN
    start = ["python", "run.py"] if Path(program).name == "run.py" else ["assay", "run"]
    return " ".join([*_variables(engine), shlex.join([*start, *options, *words, *alone])])


def options_again(config_dir: str | None) -> list[str]:
    """What lets another command find the configs and the classes that this one finds."""
    allowed = filter(None, os.environ.get("ASSAY_ALLOW_TARGET", "").split(","))
    found = ["--config-dir", config_dir] if config_dir else []
    return [*found, *(word for prefix in allowed for word in ("--allow-target", prefix))]


def _variables(engine: str) -> list[str]:
    """Those that are set, as a shell takes them before a command."""
    names = (*READ, *READ_BY.get(engine, ()))
    return [f"{name}={shlex.quote(os.environ[name])}" for name in names if name in os.environ]


def without_variables(command: str) -> str:
    """What `again` gives, without them."""
    return shlex.join(dropwhile(lambda word: word.partition("=")[0] in SET, shlex.split(command)))
