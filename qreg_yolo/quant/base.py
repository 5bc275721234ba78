"""The quantizer interface: a small module that turns floats into floats on a grid, and into integer codes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from qreg_yolo.errors import CalibrationError
from qreg_yolo.quant.spec import QuantizerSpec

_HALF = (torch.float16, torch.bfloat16)


def keep_float32(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Returns ``fn`` without its casts to half precision (for `torch.nn.Module._apply`).

    Hosts halve whole checkpoints; a step size loses three digits then, or underflows to 0, and weights that are
    rounded change their codes. Moves to another device and casts to float32 or float64 still happen.
    """

    def wrapped(tensor: Tensor) -> Tensor:
        result = fn(tensor)
        if tensor.dtype in (torch.float32, torch.float64) and result.dtype in _HALF:
            return tensor.to(result.device)
        return result

    return wrapped


class Quantizer(nn.Module, ABC):
    """A fake-quantizer of one tensor: float in, float on the grid out.

    Subclasses are final: one per method and kind of tensor. A quantizer that learns its range must be calibrated
    before its first forward; the flag is a buffer, so that it travels with ``state_dict``.

    Args:
        spec: What to do.
        channels: Number of output channels where the range is per channel, else None.
    """

    initialized: Tensor

    def __init__(self, spec: QuantizerSpec, *, channels: int | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.channels = channels if spec.per_channel else None
        self.register_buffer("initialized", torch.tensor(not self.learns_range))
        self._is_initialized = not self.learns_range

    @property
    def learns_range(self) -> bool:
        """Whether the quantizer needs data (`calibrate`) before it can run."""
        return False

    @property
    def is_initialized(self) -> bool:
        """Whether `forward` can run (mirrors the buffer, so that forward never reads a tensor to decide)."""
        return self._is_initialized

    @property
    def bits(self) -> int:
        """Width in bits."""
        return self.spec.bits

    def calibrate(self, x: Tensor) -> None:
        """Takes ``x`` as one calibration batch; several calls average. Nothing to do where no range is learned."""
        del x

    def finish_calibration(self) -> None:
        """Ends a calibration: what it decided goes into `spec`, its running sums are dropped."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Returns ``x`` on the quantization grid, same shape and dtype."""

    @abstractmethod
    def to_int(self, x: Tensor) -> Tensor:
        """Returns the integer codes of ``x`` (int32, same shape)."""

    @abstractmethod
    def grid(self) -> tuple[int, int]:
        """Returns the smallest and the largest code."""

    @abstractmethod
    def clipped(self, x: Tensor) -> Tensor:
        """Returns a boolean mask of the values outside the clipping range."""

    def ideal(self, x: Tensor) -> Tensor:
        """Returns what `forward` would give with infinitely fine levels and no clipping, in the same unit."""
        return x.detach()

    def on_grid(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns `ideal` and `forward` in the unit of the grid, where a method rescales what it returns."""
        return self.ideal(x), self(x).detach()

    @abstractmethod
    def spacing(self, x: Tensor) -> Tensor:
        """Returns the distance of neighbouring levels in the unit of the grid, broadcasting against ``x``."""

    def require_initialized(self) -> None:
        """Raises unless the range is known.

        Raises:
            RuntimeError: The quantizer was never calibrated.
        """
        if not self._is_initialized:
            raise CalibrationError(
                f"{type(self).__name__} ({self.extra_repr()}) has no range yet. Run "
                "qreg_yolo.quant.calibrate(model, batches) before the first forward, or load a trained state_dict."
            )

    def require_data(self, *, seen: bool, finite: bool) -> None:
        """Raises unless calibration has seen batches, and finite values only.

        Raises:
            RuntimeError: It has not.
        """
        if not seen:
            raise CalibrationError(
                f"No calibration batch reached {type(self).__name__} ({self.extra_repr()}). Exclude the layer, or "
                "calibrate with a forward that uses it."
            )
        if not finite:
            raise CalibrationError(
                f"{type(self).__name__} ({self.extra_repr()}) saw values that are not finite. Check the weights and "
                "the calibration batches."
            )

    def mark_initialized(self) -> None:
        """Sets the flag, buffer and mirror."""
        self.initialized.fill_(True)
        self._is_initialized = True

    def extra_repr(self) -> str:
        """Returns method, width, signedness and granularity."""
        sign = {True: "signed", False: "unsigned", None: "signed=?"}[self.spec.signed]
        where = f", {self.channels} channels" if self.channels else ""
        return f"{self.spec.method}, {self.bits} bits, {sign}{where}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Quantizer:
        super()._apply(keep_float32(fn), recurse)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._is_initialized = bool(self.initialized)
