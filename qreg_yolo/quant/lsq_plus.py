"""LSQ+ of inputs (Bhalgat et al., 2020, arXiv 2004.09576); LSQ+ of weights is `LSQWeightQuantizer`."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn

from qreg_yolo.quant.base import Quantizer
from qreg_yolo.quant.functional import (
    MIN_STEP,
    compute_dtype,
    grid_bounds,
    lsq_grad_scale,
    lsq_plus_clipped,
    lsq_plus_codes,
    lsq_plus_fake_quantize,
    lsq_plus_initial_range,
    positive,
)
from qreg_yolo.quant.spec import QuantizerSpec

SAMPLE_SIZE = 2**16
"""Values of the calibration batches, all together, that the initial range is fitted to."""


@final
class LSQPlusInputQuantizer(Quantizer):
    """LSQ+ of a layer's input: the unsigned grid times a learned step, shifted by a learned offset.

    ``g = 1 / sqrt(N * Q_P)`` for both, with N the features of one sample (``grad_scale="batch"`` counts the batch too).
    """

    def __init__(self, spec: QuantizerSpec, *, channels: int | None = None) -> None:
        super().__init__(spec, channels=None)
        del channels
        self.quant_min, self.quant_max = grid_bounds(spec.bits, signed=False)
        self.step_size = nn.Parameter(torch.ones(()))
        self.offset = nn.Parameter(torch.zeros(()))
        self._forget()

    def _forget(self) -> None:
        self._sample: list[Tensor] = []
        self._share = SAMPLE_SIZE
        self._finite = True

    @property
    def learns_range(self) -> bool:
        return True

    def calibrate(self, x: Tensor) -> None:
        """Keeps a sample of ``x``; every batch has the same share in what is kept."""
        x = x.detach().to(compute_dtype(x))
        self._finite = self._finite and bool(torch.isfinite(x).all())
        if x.numel():
            self._sample.append(_spread(x, self._share))
        if sum(part.numel() for part in self._sample) > SAMPLE_SIZE:
            self._share = max(self._share // 2, 1)
            self._sample = [part[: self._share].clone() for part in self._sample]

    def finish_calibration(self) -> None:
        """Takes the step and the offset that keep the squared error on the sample low.

        Raises:
            RuntimeError: No batch has been seen, or values that are not finite.
        """
        self.require_data(seen=bool(self._sample), finite=self._finite)
        step, offset = lsq_plus_initial_range(
            torch.cat(self._sample), quant_min=self.quant_min, quant_max=self.quant_max
        )
        with torch.no_grad():
            self.step_size.copy_(step.clamp_min(MIN_STEP))
            self.offset.copy_(offset)
        self._forget()
        self.mark_initialized()

    def forward(self, x: Tensor) -> Tensor:
        self.require_initialized()
        return lsq_plus_fake_quantize(
            x,
            self.step_size,
            self.offset,
            quant_min=self.quant_min,
            quant_max=self.quant_max,
            grad_scale=self.grad_scale(x),
        )

    def grad_scale(self, x: Tensor) -> float:
        """Returns ``g``, the factor of the gradients to the range."""
        per_sample = self.spec.grad_scale == "sample" and x.ndim > 1
        return lsq_grad_scale(x.shape[1:].numel() if per_sample else x.numel(), self.quant_max)

    def to_int(self, x: Tensor) -> Tensor:
        self.require_initialized()
        codes = lsq_plus_codes(
            x.detach(), self.step_size, self.offset, quant_min=self.quant_min, quant_max=self.quant_max
        )
        return codes.detach().to(torch.int32)

    def grid(self) -> tuple[int, int]:
        return self.quant_min, self.quant_max

    def spacing(self, x: Tensor) -> Tensor:
        return positive(self.step_size.detach(), x)

    def clipped(self, x: Tensor) -> Tensor:
        return lsq_plus_clipped(
            x.detach(),
            self.step_size.detach(),
            self.offset.detach(),
            quant_min=self.quant_min,
            quant_max=self.quant_max,
        )

    def extra_repr(self) -> str:
        return f"{self.spec.method}, {self.bits} bits, offset"


def _spread(x: Tensor, count: int) -> Tensor:
    """Returns ``count`` values of ``x`` (all, where it has fewer), the same places every time.

    They stand at multiples of the golden section of its size, modulo the size. That spreads them, and any number of
    the first of them, evenly over the tensor and along each of its axes; a plain stride would meet one column only
    where it is a multiple of the width.
    """
    size = x.numel()
    stride = round(size * (math.sqrt(5.0) - 1.0) / 2.0)
    while math.gcd(stride, size) != 1:
        stride += 1
    places = torch.arange(min(count, size), device=x.device).mul_(stride).remainder_(size)
    return x.flatten()[places]
