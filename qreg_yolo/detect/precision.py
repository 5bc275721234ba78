"""Mixed precision: bfloat16 convolutions and float32 quantizers, also on the CPU, where Ultralytics refuses it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from qreg_yolo.detect.quantization_config import KEY
from qreg_yolo.training.environment import BF16, FP16, FP32, cpu_has_bf16


def on_cpu(device: object) -> bool:
    """Returns whether Ultralytics' argument ``device`` means the CPU."""
    return str(device or "").lower() == "cpu" or (not device and not torch.cuda.is_available())


def resolve_amp(amp: bool | str, device: object) -> bool | str:
    """Returns Ultralytics' ``amp``; ``auto`` is bf16 if the hardware supports it, else off."""
    if amp != "auto":
        return amp
    supported = cpu_has_bf16() if on_cpu(device) else torch.cuda.is_bf16_supported()
    return BF16 if supported else False


def amp_hint(amp: bool | str, device: object) -> str | None:
    """Returns a hint if ``amp`` does not suit the CPU, else None."""
    if not on_cpu(device):
        return None
    if amp in (True, FP16):
        return (
            "amp=true and amp=fp16 have no effect on the CPU, which trains in fp32. Mixed precision there: --amp bf16."
        )
    if amp in (False, FP32) and cpu_has_bf16():
        return "This CPU multiplies bfloat16 in hardware: --amp bf16 trains faster."
    if amp == BF16 and not cpu_has_bf16():
        return "This CPU has no bfloat16 hardware: --amp bf16 is emulated and slower than fp32. Use --amp off."
    return None


def precision_of(amp: bool | str, device: torch.device) -> str:
    """Returns the arithmetic of a training run outside the quantizers."""
    if amp == BF16:
        return BF16
    return FP32 if device.type == "cpu" or amp in (False, FP32) else FP16


def trains_in_bf16(model: nn.Module) -> bool:
    """Returns whether the model's configuration has bfloat16, without parsing it, as every forward asks."""
    section = getattr(model, "yaml", {}).get(KEY)
    return section is not None and bool(section["precision"] == BF16)


def in_bf16(forward: Callable[..., Any], image: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Returns the float32 result of ``forward`` with convolutions in bfloat16 (CPU)."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return _float32(forward(image, *args, **kwargs))


def _float32(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.float()
    if isinstance(output, dict):
        return {key: _float32(value) for key, value in output.items()}
    if isinstance(output, (list, tuple)):
        return type(output)(_float32(value) for value in output)
    return output
