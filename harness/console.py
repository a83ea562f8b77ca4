"""`run.py` and `assay run`: the command line checked, then handed to Hydra. Imports no torch."""

import signal
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from .config import CONF, ConfigError, read_config, register_schema
from .overrides import check_overrides, take_allow_flag

WRONG_REQUEST, INTERRUPTED = 2, 130  # exit codes, beside 1: something failed

failures: list[int] = []


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _job(config: DictConfig) -> None:
    """One job; a sweep calls it for each combination."""
    from .launch import run  # torch is imported here, not for --help or tab completion

    try:
        failures.append(run(read_config(config), list(HydraConfig.get().overrides.task)))
    except (ConfigError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        failures.append(WRONG_REQUEST)


def evaluate() -> None:
    """Evaluate what the command line asks for; ends the process with the worst job's exit code."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # of run.py, for the time of imports
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sys.argv[1:] = take_allow_flag(sys.argv[1:])
        check_overrides(sys.argv[1:])
        register_schema()
        _job()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(WRONG_REQUEST)
    except KeyboardInterrupt:
        print("\ninterrupted: the same command resumes", file=sys.stderr)
        sys.exit(INTERRUPTED)
    sys.exit(max(failures, default=0))
