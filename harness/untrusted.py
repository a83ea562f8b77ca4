"""What Hydra, or a cluster's shell, would do with a config before a run begins: no code of a config's choosing.

`harness/build.py` checks what a run builds. Hydra reads a node of its own, `hydra`, before that: it instantiates
callbacks, launchers and sweepers, hands logging factories to Python, and sets environment variables. Slurm's workers
run lines of shell.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue

from .config import ConfigError

SHELL = "compute.slurm.setup"  # what a cluster's shell runs
NO_LAUNCHER = (
    "jobs of a sweep run one after the other, each on as many workers as there are: compute.engine=ray or "
    "compute.engine=slurm, and no hydra/launcher"
)
LOG_FILE = "${hydra.runtime.output_dir}/${hydra.job.name}.log"
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
LOGGING: dict[str, tuple[Any, ...]] = {  # keys that name code or files, and what Hydra's own configs say there
    "class": ("logging.StreamHandler", "logging.FileHandler", "logging.NullHandler", "logging.Formatter"),
    "()": ("colorlog.ColoredFormatter",),
    ".": (),
    "filename": (LOG_FILE,),
    "stream": STREAMS,
    "level": (*logging.getLevelNamesMapping(), *range(101)),
    "style": ("%", "$"),
}


def check_hydra(node: DictConfig) -> None:
    """Refuse a `hydra` node that names code which Hydra would run.

    node: composed; read without resolving what Hydra knows only later.

    Raises:
        ConfigError: callbacks, environment variables, a launcher, another sweeper than an installed plug-in's, a
            `_target_` below one, a logging factory or class that is not Hydra's own, a folder for copies of the config.
    """
    raw: Any = OmegaConf.to_container(node, resolve=False)
    if raw.get("callbacks"):
        raise ConfigError(f"hydra.callbacks ({_names(raw['callbacks'])}): a config may not name any code; remove them")
    if raw["job"].get("env_set"):
        raise ConfigError(
            f"hydra.job.env_set ({_names(raw['job']['env_set'])}): a config may not set environment variables; set "
            "them in the shell: NAME=VALUE python run.py ..."
        )
    if raw.get("output_subdir") not in (None, ".hydra"):
        raise ConfigError(
            f"hydra.output_subdir={raw['output_subdir']}: copies of a config would overwrite what lies there; give null"
        )
    _check_plugin("launcher", node.launcher, {_path(BasicLauncher)}, NO_LAUNCHER)
    sweepers = set(map(_path, Plugins.instance().discover(Sweeper)))
    _check_plugin("sweeper", node.sweeper, sweepers, f"choose hydra/sweeper=NAME: {', '.join(sorted(sweepers))}")
    for key in ("job_logging", "hydra_logging"):
        _check_logging(f"hydra.{key}", raw[key])


def _names(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (Mapping, list)) else str(value)


# Launchers and sweepers


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__name__}"


def _check_plugin(kind: str, settings: Any, valid: set[str], choose: str) -> None:
    """A plug-in that is installed, and below it no code of a config's choosing."""
    target = settings.get("_target_") if OmegaConf.is_dict(settings) else settings
    if target not in valid:
        raise ConfigError(f"hydra.{kind}._target_={target} is no {kind} of ours: {choose}")
    for path, key, value in _below(settings, f"hydra.{kind}"):
        if key == "_target_" and path != f"hydra.{kind}._target_":
            raise ConfigError(f"{path}={value}: a config may not name any code; remove it")


def _below(node: Any, path: str) -> Iterator[tuple[str, str, Any]]:
    """(path, key, value) of everything below a node, interpolations resolved as Hydra would."""
    if not OmegaConf.is_config(node) or node._is_none() or node._is_missing():
        return
    for key in node if OmegaConf.is_dict(node) else range(len(node)):
        try:
            value = node[key]
        except (InterpolationToMissingValueError, MissingMandatoryValue):
            continue  # what Hydra fills in later is text
        yield f"{path}.{key}", str(key), value
        yield from _below(value, f"{path}.{key}")


# Logging


def _check_logging(path: str, value: Any) -> None:
    """Handlers and formatters of Python's own, as Hydra's configs name them, and no reference to anything else."""
    if isinstance(value, dict):
        for key, each in value.items():
            if key in LOGGING and each not in LOGGING[key]:
                valid = ", ".join(each for each in LOGGING[key] if isinstance(each, str)) or "nothing"
                raise ConfigError(f"{path}.{key}={each}: logging takes what Hydra's own configs name: {valid}")
            _check_logging(f"{path}.{key}", each)
    elif isinstance(value, list):
        for place, each in enumerate(value):
            _check_logging(f"{path}.{place}", each)
    elif isinstance(value, str) and value not in (LOG_FILE, *STREAMS) and ("://" in value or "${" in value):
        raise ConfigError(f"{path}={value}: a config may not name any code; write the value itself")


# Shell


def check_shell(config: DictConfig, words: Sequence[str]) -> None:
    """Refuse lines for a cluster's shell that `words`, the command line's, do not give."""
    if OmegaConf.select(config, SHELL) and not any(word.lstrip("+").startswith(f"{SHELL}=") for word in words):
        raise ConfigError(f"{SHELL} is run by a shell, so a config's file may not set it: give it as an override")


def check_swept(swept: Mapping[Any, Any]) -> None:
    """Refuse such lines in what an experiment's file sweeps: they would look like the command line's."""
    if any(str(key).lstrip("+") == SHELL for key in swept):
        raise ConfigError(f"{SHELL} is run by a shell, so a config's file may not sweep it: give it as an override")
