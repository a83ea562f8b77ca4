"""Hydra's own node: what of it is looked at before Hydra acts on it. The ways in: tests/bad_input/test_requests.py."""

from typing import Any

import pytest
from assay.harness.config import ConfigError
from assay.harness.untrusted import check_hydra, check_shell, check_swept
from omegaconf import DictConfig, OmegaConf

BASIC = "hydra._internal.core_plugins.basic_"
LOGGING = {"version": 1, "root": {"level": "INFO", "handlers": []}}


def node(**more: Any) -> DictConfig:
    """A composed config's `hydra`, with a foreign key beside it that it may refer to."""
    hydra = {
        "callbacks": {},
        "job": {"env_set": {}, "id": "???"},
        "output_subdir": None,
        "launcher": {"_target_": f"{BASIC}launcher.BasicLauncher"},
        "sweeper": {"_target_": f"{BASIC}sweeper.BasicSweeper", "params": None},
        "job_logging": LOGGING,
        "hydra_logging": LOGGING,
    }
    both = OmegaConf.create({"hydra": OmegaConf.merge(hydra, more), "other": {"_target_": "os.mkdir", "path": "x"}})
    made: DictConfig = both.hydra
    return made


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"output_subdir": ".hydra"},
        {"launcher": {"name": "${hydra.job.id}", "folder": "${hydra.job.id}/x"}},  # known later
        {"job_logging": {"handlers": {"x": {"class": "logging.StreamHandler", "stream": "ext://sys.stderr"}}}},
        {"job_logging": {"formatters": {"x": {"()": "colorlog.ColoredFormatter", "format": "%(message)s"}}}},
        {"hydra_logging": {"root": {"level": 10, "handlers": []}}},
    ],
)
def test_what_hydras_own_configs_say_passes(more: dict[str, Any]) -> None:
    check_hydra(node(**more))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"callbacks": {"x": "${other}"}}, r"hydra\.callbacks \(x\)"),
        ({"job": {"env_set": {"PYTHONPATH": "/x"}}}, r"env_set \(PYTHONPATH\)"),
        ({"launcher": {"x": "${other}"}}, r"hydra\.launcher\.x\._target_=os\.mkdir: a config may not"),
        ({"launcher": {"x": [{"y": "${other}"}]}}, r"hydra\.launcher\.x\.0\.y\._target_=os\.mkdir"),
        ({"launcher": {"_target_": f"{BASIC}sweeper.BasicSweeper"}}, r"BasicSweeper is no launcher of ours: jobs of"),
        ({"sweeper": {"_target_": "os.mkdir"}}, r"os\.mkdir is no sweeper of ours: choose hydra/sweeper=NAME"),
        ({"job_logging": {"filters": {"x": {"()": "os.mkdir"}}}}, r"filters\.x\.\(\)=os\.mkdir"),
        ({"job_logging": {"formatters": {"x": {".": {"a": 1}}}}}, r"formatters\.x\.\.=.*name: nothing"),
        ({"job_logging": {"handlers": {"x": {"level": "${oc.env:HOME}"}}}}, r"handlers\.x\.level"),
        ({"job_logging": {"handlers": {"x": {"delay": "${other}"}}}}, r"delay=\$\{other\}: a config may not"),
    ],
)
def test_what_starts_code_is_refused(more: dict[str, Any], says: str) -> None:
    """References are followed: a node that another key fills in is looked at as Hydra would see it."""
    with pytest.raises(ConfigError, match=says):
        check_hydra(node(**more))


def test_a_shells_commands_come_from_the_command_line() -> None:
    """Who types them may run them anyway; a file may name them neither for a run nor for a sweep."""
    asked = OmegaConf.create({"compute": {"slurm": {"setup": ["module load cuda"]}}})
    check_shell(asked, ["compute.slurm.setup=[module load cuda]"])
    check_shell(asked, ["+compute.slurm.setup=[module load cuda]"])
    check_shell(OmegaConf.create({"compute": {"slurm": {"setup": []}}}), [])
    with pytest.raises(ConfigError, match="give it as an override"):
        check_shell(asked, ["compute.slurm.setups=[x]"])
    check_swept({"compute.slurm.partition": "a,b"})
    with pytest.raises(ConfigError, match="may not sweep it"):
        check_swept({"++compute.slurm.setup": "[x]"})
