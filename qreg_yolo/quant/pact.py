"""PACT, parameterized clipping activation (Choi et al., 2018, arXiv 1805.06085)."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from qreg_yolo.quant.base import Quantizer
from qreg_yolo.quant.functional import compute_dtype, pact_codes, pact_fake_quantize
from qreg_yolo.quant.spec import QuantizerSpec


@final
class PACTInputQuantizer(Quantizer):
    """PACT of a layer's input: clips to ``[0, a]`` with a learned ``a`` (decayed by L2), then rounds to k bits.

    One-sided by definition: negative inputs become 0.
    """

    def __init__(self, spec: QuantizerSpec) -> None:
        super().__init__(spec)
        self.clip_value = nn.Parameter(torch.tensor(float(spec.clip_init)))

    def forward(self, x: Tensor) -> Tensor:
        return pact_fake_quantize(x, self.clip_value, bits=self.bits)

    def _codes(self, x: Tensor) -> Tensor:
        return pact_codes(x, self.clip_value, bits=self.bits)

    def clipped(self, x: Tensor) -> Tensor:
        x = x.detach().to(compute_dtype(x))
        return (x < 0) | (x > self.clip_value.detach())
