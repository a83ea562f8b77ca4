"""Where a process computes: the machine's name, and what it computes on."""

import platform
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch


class Where(NamedTuple):
    """host: the machine's name. device: the GPU's model, or the CPU's."""

    host: str
    device: str


@cache
def where(device: torch.device) -> Where:
    """Of this process."""
    return Where(platform.node(), torch.cuda.get_device_name(device) if device.type == "cuda" else _processor())


def _processor() -> str:
    """The CPU's model name where the system tells it, the architecture elsewhere."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"cpu {names[0] if names else platform.machine()}"
