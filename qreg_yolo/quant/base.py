"""The interface of all quantizers: floats to floats on a grid, and to integer codes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from qreg_yolo.errors import CalibrationError
from qreg_yolo.quant.functional import grid_bounds
from qreg_yolo.quant.sample import InputSample
from qreg_yolo.quant.spec import QuantizerSpec

_HALF = (torch.float16, torch.bfloat16)


def keep_float32(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Returns ``fn`` without its casts to half precision (for `torch.nn.Module._apply`).

    Training frameworks halve whole checkpoints. A step size would lose three digits or underflow to 0, and rounded
    weights would change their codes. Moves to another device and casts to float32 or float64 still happen.
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
    before its first forward; the flag is a buffer, so that ``state_dict`` holds it.

    Args:
        spec: Method, width and options.
        channels: Number of output channels of the layer; used if the range is per channel.
    """

    initialized: Tensor
    active: bool = True
    """Whether it quantizes; False in a stage of the training in full precision."""

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
        """Whether `forward` can run (a copy of the buffer, so that forward reads no tensor to decide)."""
        return self._is_initialized

    @property
    def bits(self) -> int:
        """Width in bits."""
        return self.spec.bits

    @property
    def quant_min(self) -> int:
        """Smallest code."""
        return grid_bounds(self.bits, signed=bool(self.spec.signed))[0]

    @property
    def quant_max(self) -> int:
        """Largest code."""
        return grid_bounds(self.bits, signed=bool(self.spec.signed))[1]

    @property
    def binary(self) -> bool:
        """Whether the only codes are -1 and +1."""
        return self.bits == 1 and self.quant_min < 0

    def calibrate(self, x: Tensor) -> None:
        """Observes one calibration batch; quantizers that learn no range ignore it."""
        del x

    def finish_calibration(self) -> None:
        """Sets the range from the observed batches, and `spec` from what was decided."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Returns ``x`` on the quantization grid, same shape and dtype."""

    @torch.no_grad()
    def to_int(self, x: Tensor) -> Tensor:
        """Returns the integer codes of ``x`` (int32, same shape)."""
        self.require_initialized()
        return self._codes(x).to(torch.int32)

    @abstractmethod
    def _codes(self, x: Tensor) -> Tensor:
        """Returns the codes of ``x`` as floats."""

    @abstractmethod
    def clipped(self, x: Tensor) -> Tensor:
        """Returns a boolean mask of the values outside the clipping range."""

    def require_initialized(self) -> None:
        """Raises `CalibrationError` if the quantizer was never calibrated."""
        if not self._is_initialized:
            raise CalibrationError(
                f"{type(self).__name__} ({self.extra_repr()}) has no range yet. Run "
                "qreg_yolo.quant.calibrate(model, batches) before the first forward, or load a trained state_dict."
            )

    def require_data(self, *, seen: bool, finite: bool) -> None:
        """Raises `CalibrationError` unless calibration saw batches, and finite values only."""
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

    def observed(self, sample: InputSample | None) -> InputSample:
        """Returns the sample of calibration batches; errors as `require_data`."""
        self.require_data(seen=sample is not None and sample.seen, finite=sample is None or sample.finite)
        assert sample is not None
        return sample

    def forget(self) -> None:
        """Forgets a learned range, so that calibration sets it anew."""
        if self.learns_range:
            self.initialized.fill_(False)
            self._is_initialized = False

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
