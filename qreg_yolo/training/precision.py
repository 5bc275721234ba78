"""Names of the arithmetic outside the quantizers, and what the hardware has of it."""

from __future__ import annotations

import re
from pathlib import Path

import torch

FP32, BF16, FP16 = "fp32", "bf16", "fp16"
"""Values of a record's ``precision``."""
_FLAGS = re.compile(r"\b(avx512_bf16|amx_bf16)\b")


def cpu_has_bf16() -> bool:
    """Returns whether this CPU multiplies bfloat16 in hardware (AVX512-BF16, AMX); elsewhere it is emulated, slowly."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        return _FLAGS.search(info.read_text(encoding="utf-8", errors="replace")) is not None
    asks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(ask is not None and ask() for ask in asks)
