"""A snapshot of the environment: host, device, versions, code state."""

import importlib.util
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import torch

from assay.version import __version__

from ..config import ROOT
from ..plugins import installed

PACKAGES = ("torch", "torchvision", "numpy", "pandas", "hydra-core")


EXTRAS = ("captum", "zennit", "timm", "transformers")  # shown where they are installed


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _code() -> dict[str, str]:
    """Commit of this checkout and whether it is edited; installed, empty: a repository around it is the user's own."""
    ours = Path(_git("rev-parse", "--show-toplevel")) == ROOT
    sha = _git("rev-parse", "HEAD") if ours else ""
    return {"git_sha": sha, "git_dirty": str(bool(_git("status", "--porcelain"))) if ours else ""}


def environment(device: torch.device) -> dict[str, str]:
    """Host, device, versions and code state: everything that happened to be true of a run."""
    packages = [*PACKAGES, *(name for name in EXTRAS if importlib.util.find_spec(name))]
    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "host": platform.node(),
        "device": accelerator,
        "python": sys.version.split()[0],
        "assay": __version__,
        **{name.replace("-", "_"): metadata.version(name) for name in packages},
        **_code(),
        **_plugins(),
    }


def _plugins() -> dict[str, str]:
    """Releases of installed plug-ins, where there are some: the code of what they name is theirs."""
    releases = sorted({each.release for each in installed()})
    return {"plugins": ", ".join(releases)} if releases else {}


def _processor() -> str:
    """The CPU's model name where the system tells it, the architecture elsewhere."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"cpu {names[0] if names else platform.machine()}"
