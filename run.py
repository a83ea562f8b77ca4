"""Evaluate attribution methods and failure detectors: model x dataset x method x metric -> tidy table.

Everything else (listing, planning, collecting, comparing) is `python -m harness --help`.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))  # our `datasets` before any installed package of that name
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))

import hydra  # noqa: E402
from hydra.core.hydra_config import HydraConfig  # noqa: E402
from omegaconf import DictConfig  # noqa: E402

from harness.config import ConfigError, check_overrides, register_schema, take_allow_flag  # noqa: E402

failures: list[int] = []


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def evaluate(config: DictConfig) -> None:
    """One job; a sweep calls it for each combination."""
    from harness.launch import run  # torch is imported here, not for --help or tab completion

    try:
        failures.append(run(config, list(HydraConfig.get().overrides.task)))
    except (ConfigError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        failures.append(2)


def main() -> None:
    """Check the command line, then hand it to Hydra."""
    sys.argv[1:] = take_allow_flag(sys.argv[1:])
    try:
        check_overrides(sys.argv[1:])
    except ConfigError as error:
        sys.exit(f"error: {error}")
    register_schema()
    evaluate()
    sys.exit(max(failures, default=0))


if __name__ == "__main__":
    main()
