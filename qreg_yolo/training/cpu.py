"""Faster training on the CPU with the same results: settings of the allocator and of the compiler."""

from __future__ import annotations

import ctypes
import os
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Of glibc's ``malloc.h``; see mallopt(3)."""


def tune_cpu(*, compiled: bool = False) -> None:
    """Sets this process up to train on the CPU: `keep_freed_memory`, and `tune_compiler` where it compiles."""
    keep_freed_memory()
    if compiled:
        from qreg_yolo.training.compiling import tune_compiler  # Inductor takes a second to import

        tune_compiler()


def keep_freed_memory() -> bool:
    """Has this process keep the memory that it frees; returns whether it does.

    By default glibc gives large tensors back to the kernel, which clears every page when it is asked for again: up to
    a quarter of ResNet20's training step on the CPU. The process then holds its peak until it ends. Nothing is done
    where the C library is another one or the user has set it up (``MALLOC_...`` variables, ``glibc.malloc`` in
    ``GLIBC_TUNABLES``).
    """
    if platform.libc_ver()[0] != "glibc" or _is_set_up():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    never_trim, no_mapping = mallopt(_M_TRIM_THRESHOLD, -1), mallopt(_M_MMAP_MAX, 0)
    return bool(never_trim and no_mapping)


def _is_set_up() -> bool:
    return any(name.startswith("MALLOC_") for name in os.environ) or "glibc.malloc" in os.environ.get(
        "GLIBC_TUNABLES", ""
    )
