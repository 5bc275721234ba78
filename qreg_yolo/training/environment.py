"""Environment of a run: memory, hardware arithmetic, seeds of epochs, and its record."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
from pathlib import Path

import torch

from qreg_yolo.io import records
from qreg_yolo.io.process import requested_threads

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Of glibc's ``malloc.h``; see mallopt(3)."""


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


def environment(device: torch.device) -> dict[str, object]:
    """Returns the content of ``environment.json``: commit, command, versions, time, device, threads, platform."""
    return {
        **records.provenance(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type}: {_cpu()}",
        "threads": requested_threads(),
        "platform": platform.platform(),
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


FP32, BF16, FP16 = "fp32", "bf16", "fp16"
"""Values of a record's ``precision``."""
_FLAGS = re.compile(r"\b(avx512_bf16|amx_bf16)\b")


def cpu_has_bf16() -> bool:
    """Returns whether this CPU multiplies bfloat16 in hardware (AVX512-BF16, AMX) instead of emulating it slowly."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        return _FLAGS.search(info.read_text(encoding="utf-8", errors="replace")) is not None
    asks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(ask is not None and ask() for ask in asks)


def epoch_seed(seed: int, epoch: int) -> int:
    """Returns a seed of 63 bits, unrelated to those of neighbouring seeds and epochs."""
    digest = hashlib.sha256(f"qreg-yolo {seed} {epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
