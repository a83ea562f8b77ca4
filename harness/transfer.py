"""Between the host's memory and a device: nothing waits on the way there, and once on the way back."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor


def sent(values: Tensor, device: torch.device) -> Tensor:
    """The host's values on the device. A GPU takes them from pinned memory in its own time, and the host goes on."""
    pinned = values.pin_memory() if device.type == "cuda" else values
    return pinned.to(device, non_blocking=device.type != "mps")  # which may read memory that is given back since


def columns_to_numpy(columns: Iterable[tuple[str, Tensor]]) -> dict[str, np.ndarray]:
    """Columns as arrays of the host, which waits for a GPU once: those that are there come as one block of bytes."""
    found = {name: column.detach() for name, column in columns}
    there = {name: column for name, column in found.items() if column.device.type != "cpu"}
    if there:
        block = torch.cat([_bytes(column) for column in there.values()]).cpu()
        parts = block.split([column.numel() * column.element_size() for column in there.values()])
        each = zip(there.items(), parts, strict=True)
        found |= {name: part.clone().view(column.dtype).view(column.shape) for (name, column), part in each}
    return {name: column.numpy() for name, column in found.items()}


def _bytes(column: Tensor) -> Tensor:
    return column.clone(memory_format=torch.contiguous_format).view(-1).view(torch.uint8)  # a single row's, too
