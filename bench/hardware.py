"""Where figures are kept: files whose names carry the hardware that they were measured on."""

import re
from pathlib import Path

import torch
from assay.harness.results.environment import environment

FOLDER = Path(__file__).parent / "results"


def hardware(device: torch.device, threads: int) -> str:
    """`cpu-amd-epyc-2c-torch2.14.0`, `nvidia-h100-80gb-hbm3-torch2.11.0-cu130`; the CPU with its threads."""
    about = environment(device)
    cores = f"-{threads}c" if device.type == "cpu" else ""
    return re.sub(r"[^A-Za-z0-9.]+", "-", f"{about['device']}{cores}-torch{about['torch']}").lower()
