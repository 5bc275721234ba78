"""Settings of the allocator and the compiler for faster training on the CPU, with the same results."""

from __future__ import annotations

import ctypes
import os
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Of glibc's ``malloc.h``; see mallopt(3)."""


def tune_cpu(*, compiled: bool = False) -> None:
    """Applies `keep_freed_memory`, and `tune_compiler` if the model is compiled, to this process."""
    keep_freed_memory()
    if compiled:
        from qreg_yolo.training.compiling import tune_compiler  # Inductor takes a second to import

        tune_compiler()


def keep_freed_memory() -> bool:
    """Makes this process keep freed memory until it ends; returns whether it does.

    By default glibc returns large tensors to the kernel, which clears every page before it is used again: up to a
    quarter of ResNet20's training step on the CPU. Another C library, or settings of the user (``MALLOC_...``
    variables, ``glibc.malloc`` in ``GLIBC_TUNABLES``), stay unchanged.
    """
    set_by_user = any(name.startswith("MALLOC_") for name in os.environ)
    if platform.libc_ver()[0] != "glibc" or set_by_user or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    never_trim, no_mapping = mallopt(_M_TRIM_THRESHOLD, -1), mallopt(_M_MMAP_MAX, 0)
    return bool(never_trim and no_mapping)
