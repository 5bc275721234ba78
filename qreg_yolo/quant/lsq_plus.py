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
    lsq_plus_clipped,
    lsq_plus_codes,
    lsq_plus_fake_quantize,
    lsq_plus_initial_range,
)
from qreg_yolo.quant.lsq import input_grad_scale
from qreg_yolo.quant.spec import QuantizerSpec

SAMPLE_SIZE = 2**16
"""Values of all calibration batches together that the initial range is fitted to."""


@final
class LSQPlusInputQuantizer(Quantizer):
    """LSQ+ of a layer's input: the unsigned grid times a learned step, shifted by a learned offset.

    ``g = 1 / sqrt(N * Q_P)`` for both, with N the features of one sample (``grad_scale="batch"`` counts the batch too).
    """

    def __init__(self, spec: QuantizerSpec) -> None:
        super().__init__(spec)
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
        """Keeps a sample of ``x``, of the same size for every batch."""
        x = x.detach().to(compute_dtype(x))
        self._finite = self._finite and bool(torch.isfinite(x).all())
        if x.numel():
            self._sample.append(_spread(x, self._share))
        if sum(part.numel() for part in self._sample) > SAMPLE_SIZE:
            self._share = max(self._share // 2, 1)
            self._sample = [part[: self._share].clone() for part in self._sample]

    def finish_calibration(self) -> None:
        """Sets the step and the offset to those with a low squared error on the sample."""
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
            grad_scale=input_grad_scale(self, x),
        )

    def _codes(self, x: Tensor) -> Tensor:
        return lsq_plus_codes(x, self.step_size, self.offset, quant_min=self.quant_min, quant_max=self.quant_max)

    @torch.no_grad()
    def clipped(self, x: Tensor) -> Tensor:
        return lsq_plus_clipped(x, self.step_size, self.offset, quant_min=self.quant_min, quant_max=self.quant_max)

    def extra_repr(self) -> str:
        return f"{self.spec.method}, {self.bits} bits, offset"


def _spread(x: Tensor, count: int) -> Tensor:
    """Returns ``count`` values of ``x`` (all if it has fewer), from the same places every time.

    The places are multiples of the golden section of the size, modulo the size. They, and any number of the first of
    them, spread evenly over the tensor and along each axis. A plain stride that is a multiple of the width would read
    a single column.
    """
    size = x.numel()
    stride = round(size * (math.sqrt(5.0) - 1.0) / 2.0)
    while math.gcd(stride, size) != 1:
        stride += 1
    places = torch.arange(min(count, size), device=x.device).mul_(stride).remainder_(size)
    return x.flatten()[places]
