"""Reproducibility: deterministic kernels, and which operations have none."""

import ctypes
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

UNSTABLE = re.compile(r"(\S+) does not have a deterministic implementation|(\S+) is not deterministic")
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
DEVICES = ("cpu", "cuda")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def make_deterministic(threads: int) -> None:
    """Deterministic kernels, full float32 (no TF32), and a fixed number of intra-op threads.

    The thread count is part of what makes two runs bit-equal: CPU kernels split sums by thread.
    """
    keep_freed_memory()
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.mha.set_fastpath_enabled(False)  # as `Network` does, for networks that were made before
    os.environ.setdefault(WORKSPACE, ":4096:8")
    torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms imports the compiler, two seconds


@contextmanager
def deterministic(threads: int = 1) -> Iterator[None]:
    """`make_deterministic` inside the block, with gradients and without autocast; the caller's settings afterwards.

    What the block draws from torch's generators is given back, too; that freed memory is kept stays.
    """
    undo, initialised = list(_undo()), torch.cuda.is_initialized()
    try:
        with torch.random.fork_rng([torch.cuda.current_device()] if initialised else []), torch.inference_mode(False):
            make_deterministic(threads)
            for device in DEVICES:
                torch.set_autocast_enabled(device, False)
            with torch.enable_grad():
                yield
    finally:
        for each in undo:
            each()


def _undo() -> Iterator[Callable[[], Any]]:
    """Calls that put every setting back to what it is now."""
    mha = torch.backends.mha
    yield partial(torch.set_num_threads, torch.get_num_threads())
    yield partial(torch.set_deterministic_debug_mode, torch.get_deterministic_debug_mode())
    yield partial(mha.set_fastpath_enabled, mha.get_fastpath_enabled())
    yield from (partial(torch.set_autocast_enabled, each, torch.is_autocast_enabled(each)) for each in DEVICES)
    yield from (partial(setattr, where, name, getattr(where, name)) for where, name in _flags())
    if WORKSPACE not in os.environ:
        yield partial(os.environ.pop, WORKSPACE, None)


def _flags() -> list[tuple[Any, str]]:
    """Attributes of torch's backends that `make_deterministic` sets."""
    cudnn: Any = torch.backends.cudnn  # whose newer names have no types
    matmul = torch.backends.cuda.matmul
    flags: list[tuple[Any, str]] = [(cudnn, "benchmark"), (cudnn, "deterministic")]
    try:
        cudnn.allow_tf32, matmul.allow_tf32  # noqa: B018
    except RuntimeError:  # the caller has set precisions by the newer names, after which these cannot be read
        return [*flags, *((where, "fp32_precision") for where in (cudnn.conv, cudnn.rnn, matmul))]
    return [*flags, (cudnn, "allow_tf32"), (matmul, "allow_tf32")]


def keep_freed_memory() -> None:
    """Keep what is freed for the next tensors instead of returning it to the system (glibc).

    Otherwise every large activation is new memory, cleared page by page: 340,000 page faults and two fifths of the
    time of a forward pass of 16 images through ResNet-50 on the CPU.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return  # another C library
    mallopt(M_MMAP_THRESHOLD, 2**28)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


@contextmanager
def watched() -> Iterator[set[str]]:
    """Operations without a deterministic kernel that run inside the block; torch warns of each."""
    found: set[str] = set()
    with warnings.catch_warnings():
        warnings.filterwarnings("always", ".*determinis")
        show = warnings.showwarning

        def note(message: Any, category: Any, *where: Any, **more: Any) -> None:
            if match := UNSTABLE.search(str(message)):
                found.add(match[1] or match[2])
            else:
                show(message, category, *where, **more)

        warnings.showwarning = note
        yield found
