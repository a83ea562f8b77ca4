"""`run.py` and `assay run`: the command line checked, then handed to Hydra. Imports no torch."""

import os
import signal
import sys
import traceback
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from .arguments import again, options_again, options_first, parsed_options, take_allow_flag
from .config import CONF, ConfigError, register_schema
from .overrides import check_jobs, check_overrides
from .places import place
from .plugins import register_search
from .reading import read_config
from .store.damage import Incomplete

FAILED, WRONG_REQUEST, INTERRUPTED = 1, 2, 130  # exit codes
WRONG = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)  # to name a path

failures: list[int] = []


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _job(config: DictConfig) -> None:
    """One job; a sweep calls it for each combination."""
    from .launch import run  # torch is imported here, not for --help or tab completion

    words, swept = list(HydraConfig.get().overrides.task), HydraConfig.get().mode == RunMode.MULTIRUN
    command = again(sys.argv, words, swept, _engine(config))
    try:
        options = options_again(parsed_options(sys.argv[1:]).config_dir)
        failures.append(run(read_config(config), words, command, options))
    except Exception as error:
        code = exit_code(error)
        if not isinstance(error, (ConfigError, OSError, Incomplete)):
            traceback.print_exc()
        kept = "" if code == WRONG_REQUEST else "; what is finished is kept: the same command resumes"
        print(f"error: {error}{kept}", file=sys.stderr)
        failures.append(code)
        if swept or code == FAILED:
            _keep(str(config.results), command, error)


def _engine(config: DictConfig) -> str:
    """As it stands: it may be anything before `read_config`."""
    plain: Any = OmegaConf.to_container(config)
    return str(plain["compute"]["engine"])


def _keep(results: str, command: str, error: Exception) -> None:
    """What ended the job, for `status`."""
    from .results.jobs import for_status, note_error

    if os.environ.get("RANK", "0") == "0":
        with for_status():
            print(f"traceback: {note_error(place(results), command, error)}", file=sys.stderr)


def exit_code(error: Exception) -> int:
    """Of a request that cannot be run, or of one that could and failed: a disk that is full, a cable that is out."""
    return WRONG_REQUEST if isinstance(error, (ConfigError, *WRONG)) else FAILED


def evaluate() -> None:
    """Evaluate what the command line asks for; ends the process with the worst job's exit code."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # of run.py, for the time of imports
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sys.argv[1:] = options_first(take_allow_flag(sys.argv[1:]))
        check_overrides(sys.argv[1:])
        if _computes(sys.argv[1:]):
            check_jobs(sys.argv[1:])
        register_schema()
        register_search()
        _job()
    except (ConfigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(exit_code(error))
    except KeyboardInterrupt:
        print("\ninterrupted: the same command resumes", file=sys.stderr)
        sys.exit(INTERRUPTED)
    sys.exit(max(failures, default=0))


def _computes(arguments: list[str]) -> bool:
    """Rather than showing something."""
    asked = parsed_options(arguments)
    return not (asked.help or asked.hydra_help or asked.cfg or asked.info or asked.shell_completion)
