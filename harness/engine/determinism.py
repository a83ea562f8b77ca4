"""Reproducibility: deterministic kernels, and which operations have none."""

import ctypes
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

UNSTABLE = re.compile(r"(\S+) does not have a deterministic implementation|(\S+) is not deterministic")
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
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms imports the compiler, two seconds


@contextmanager
def deterministic(threads: int) -> Iterator[None]:
    """`make_deterministic` inside the block; the caller's settings afterwards."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    flags = [(cudnn, "benchmark"), (cudnn, "deterministic"), (cudnn, "allow_tf32"), (matmul, "allow_tf32")]
    kept = [(where, name, getattr(where, name)) for where, name in flags]
    before, before_threads = torch.get_deterministic_debug_mode(), torch.get_num_threads()
    make_deterministic(threads)
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
        torch.set_num_threads(before_threads)
        for where, name, value in kept:
            setattr(where, name, value)


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
