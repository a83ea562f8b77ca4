"""How many images go through the network together: what is asked for, or what the device has free memory for.

`compute.batch_size=auto` on a GPU: one image goes through the network, and what its backward pass would read is
counted, in bytes, by its shapes alone; as many images follow as fit into a share of what is free, a power of two. On
the CPU it is a constant, so that tables are bit-equal there. Numbers of different batches agree to rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from ..network import Network
from .costs import Outcome

T = TypeVar("T")

AUTO = "auto"
AUTO_IS = "compute.batch_size=auto is"
ON_CPU = 16  # images, as in conf/compute/auto.yaml; also where a network has no gradient, which is not measured
MOST = 64  # images: what the figures of docs/how-to/gpu.md were measured with
SHARE = 0.5  # of what is free: the rest is for columns, for layers that are kept, and for what nobody foresees
COPIES = 4  # of what a backward pass reads: gradients beside it, and what rules of relevance make of each


@dataclass(frozen=True)
class Together:
    """How many images go through the network together, and in words what of (empty: it was asked for)."""

    images: int
    why: str = ""


def together(asked: int | str, network: Network, image: Tensor) -> Together:
    """The number that is asked for or, for `auto`, what the network's device has memory for.

    image: [3,H,W] in [0,1], of the size that the others have.
    """
    if asked != AUTO:
        return Together(int(asked))
    device = network.mean.device
    free = free_bytes(device)
    if free is None:
        return Together(ON_CPU, f"{AUTO_IS} {ON_CPU} on {device.type}")
    each = COPIES * kept_bytes(network, image)
    if not each:
        return Together(ON_CPU, f"{AUTO_IS} {ON_CPU}, as the network keeps nothing for a backward pass")
    images = largest_power(min(MOST, int(SHARE * free / each)))
    figures = f"{free / 2**30:.1f} GiB free, {each / 2**30:.2f} GiB reckoned an image"
    return Together(images, f"{AUTO_IS} {images}: {figures}")


def largest_power(most: int) -> int:
    """The largest power of two that is at most so much; 1 for less: whether that fits is seen when it runs."""
    return 1 << max(0, most.bit_length() - 1)


def free_bytes(device: torch.device) -> int | None:
    """Bytes that are free on a GPU, with those that torch holds and does not use; None elsewhere."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def kept_bytes(network: Network, image: Tensor) -> int:
    """Bytes that a forward pass of one image keeps for the backward pass, weights apart, each memory once."""
    weights = {each.untyped_storage().data_ptr() for each in network.module.state_dict().values()}
    kept: dict[int, torch.UntypedStorage] = {}  # held until all are counted, or one's memory would serve the next

    def note(value: Tensor) -> None:
        storage = value.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage

    inputs = network.normalise(image[None].to(network.mean.device)).requires_grad_()
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda _: inputs):  # goes back never
        _ = network(inputs)
    return sum(storage.nbytes() for storage in kept.values())


def within_memory(outcome: Outcome, work: Callable[[], T]) -> T:
    """Some work, begun again with half of `outcome.batch_size` whenever memory runs out."""
    while True:
        try:
            return work()
        except RuntimeError as error:
            if not can_halve(error, outcome):
                raise
        outcome.batch_size //= 2
        torch.cuda.empty_cache()
        print(f"out of memory: going on with compute.batch_size={outcome.batch_size}", flush=True)


def can_halve(error: Exception, outcome: Outcome) -> bool:
    """Whether memory ran out, and fewer images together would need less."""
    return isinstance(error, RuntimeError) and is_out_of_memory(error) and outcome.batch_size > 1


def is_out_of_memory(error: RuntimeError) -> bool:
    """A GPU's, or the CPU's."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
