"""PACT, parameterized clipping activation (Choi et al., 2018, arXiv 1805.06085)."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from qreg_yolo.quant.base import Quantizer
from qreg_yolo.quant.functional import compute_dtype, pact_codes, pact_fake_quantize
from qreg_yolo.quant.functional.initial import initial_step
from qreg_yolo.quant.sample import InputSample
from qreg_yolo.quant.spec import QuantizerSpec


@final
class PACTInputQuantizer(Quantizer):
    """PACT of a layer's input: clips to ``[0, a]`` with a learned ``a`` (decayed by L2), then rounds to k bits.

    One-sided by definition: negative inputs become 0.
    """

    def __init__(self, spec: QuantizerSpec) -> None:
        super().__init__(spec)
        self.clip_value = nn.Parameter(torch.tensor(float(spec.clip_init or 1.0)))
        self._sample: InputSample | None = None

    @property
    def learns_range(self) -> bool:
        return self.spec.clip_init is None

    def calibrate(self, x: Tensor) -> None:
        """Keeps a sample of ``x``."""
        self._sample = self._sample or InputSample()
        self._sample.add(x)

    def finish_calibration(self) -> None:
        """Sets the clipping value by the requested search on the sample."""
        sample = self.observed(self._sample)
        step = initial_step(sample.values(self.spec.init)[None], self.spec.init, quant_min=0, quant_max=self.quant_max)
        with torch.no_grad():
            self.clip_value.copy_(step[0] * self.quant_max)
        self._sample = None
        self.mark_initialized()

    def forward(self, x: Tensor) -> Tensor:
        self.require_initialized()
        return pact_fake_quantize(x, self.clip_value, bits=self.bits)

    def _codes(self, x: Tensor) -> Tensor:
        return pact_codes(x, self.clip_value, bits=self.bits)

    def clipped(self, x: Tensor) -> Tensor:
        x = x.detach().to(compute_dtype(x))
        return (x < 0) | (x > self.clip_value.detach())
