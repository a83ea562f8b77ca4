"""A snapshot of the environment: host, device, versions, code state."""

import importlib.util
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import torch

from assay.version import __version__

from ..config import ROOT
from ..engine.machine import where
from ..plugins import installed

PACKAGES = ("torch", "torchvision", "numpy", "pandas", "hydra-core")
EXTRAS = ("captum", "zennit", "pytorch_ood", "timm", "transformers")  # shown where they are installed
LIBRARIES = ("python", *(name.replace("-", "_") for name in (*PACKAGES, *EXTRAS)))  # columns with a version each


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
    return {
        **where(device)._asdict(),
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
