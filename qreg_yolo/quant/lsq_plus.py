"""LSQ+ of inputs (Bhalgat et al., 2020, arXiv 2004.09576); LSQ+ of weights is `LSQWeightQuantizer`."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from qreg_yolo.quant.base import Quantizer
from qreg_yolo.quant.functional import (
    MIN_STEP,
    lsq_plus_clipped,
    lsq_plus_codes,
    lsq_plus_fake_quantize,
    zero_point,
)
from qreg_yolo.quant.functional.initial import initial_range
from qreg_yolo.quant.lsq import input_grad_scale
from qreg_yolo.quant.sample import InputSample
from qreg_yolo.quant.spec import QuantizerSpec


@final
class LSQPlusInputQuantizer(Quantizer):
    """LSQ+ of a layer's input: the unsigned grid times a learned step, shifted by a learned offset.

    With ``offset="integer"`` the offset is a multiple of the step, so that 0 (and the padding) has a code of its own.

    ``g = 1 / sqrt(N * Q_P)`` for both, with N the features of one sample (``grad_scale="batch"`` counts the batch too).
    """

    def __init__(self, spec: QuantizerSpec) -> None:
        super().__init__(spec)
        self.step_size = nn.Parameter(torch.ones(()))
        self.offset = nn.Parameter(torch.zeros(()))
        self._sample: InputSample | None = None

    @property
    def learns_range(self) -> bool:
        return True

    @property
    def integer(self) -> bool:
        """Whether the zero point is an integer: 0 has a code of its own."""
        return self.spec.offset == "integer"

    @property
    @torch.no_grad()
    def value_of_code_0(self) -> float:
        """Value that code 0 stands for: the offset, as the forward uses it."""
        if not self.integer:
            return float(self.offset)
        zero = zero_point(self.step_size, self.offset, quant_min=self.quant_min, quant_max=self.quant_max)
        return float(-zero * self.step_size)

    def calibrate(self, x: Tensor) -> None:
        """Keeps a sample of ``x``, of the same size for every batch."""
        self._sample = self._sample or InputSample()
        self._sample.add(x)

    def finish_calibration(self) -> None:
        """Sets the step and the offset; the paper's own start is that of least squared error."""
        sample = self.observed(self._sample)
        init = "mse" if self.spec.init == "paper" else self.spec.init
        step, offset = initial_range(
            sample.values(init), init, quant_min=self.quant_min, quant_max=self.quant_max, integer=self.integer
        )
        with torch.no_grad():
            self.step_size.copy_(step.clamp_min(MIN_STEP))
            self.offset.copy_(offset)
        self._sample = None
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
            integer=self.integer,
        )

    def _codes(self, x: Tensor) -> Tensor:
        return lsq_plus_codes(
            x, self.step_size, self.offset, quant_min=self.quant_min, quant_max=self.quant_max, integer=self.integer
        )

    @torch.no_grad()
    def clipped(self, x: Tensor) -> Tensor:
        return lsq_plus_clipped(
            x, self.step_size, self.offset, quant_min=self.quant_min, quant_max=self.quant_max, integer=self.integer
        )

    def extra_repr(self) -> str:
        return f"{self.spec.method}, {self.bits} bits, {self.spec.offset} offset"
