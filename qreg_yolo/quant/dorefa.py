"""DoReFa-Net's weights and activations (Zhou et al., 2016, arXiv 1606.06160)."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from qreg_yolo.quant.base import Quantizer
from qreg_yolo.quant.functional import (
    dorefa_activation_codes,
    dorefa_ideal_weight,
    dorefa_quantize_activation,
    dorefa_quantize_weight,
    dorefa_weight_codes,
    dorefa_weight_step,
    grid_bounds,
)


@final
class DoReFaWeightQuantizer(Quantizer):
    """DoReFa of a weight: tanh, division by the largest magnitude, 2^k uniform levels on [-1, 1]; nothing learned."""

    @property
    def quant_min(self) -> int:
        return 0

    @property
    def quant_max(self) -> int:
        return grid_bounds(self.bits, signed=False)[1]

    def forward(self, x: Tensor) -> Tensor:
        if self.spec.rescale is None:
            raise RuntimeError(
                f"DoReFaWeightQuantizer ({self.extra_repr()}): rescale='auto' is not resolved. Build it through "
                "quantize_model, or give QuantizerSpec a rescale of True or False."
            )
        return dorefa_quantize_weight(
            x,
            bits=self.bits,
            per_channel=self.channels is not None,
            max_grad=self.spec.max_grad,
            rescale=self.spec.rescale,
        )

    def _codes(self, x: Tensor) -> Tensor:
        return dorefa_weight_codes(x, bits=self.bits, per_channel=self.channels is not None)

    def clipped(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x, dtype=torch.bool)

    def ideal(self, x: Tensor) -> Tensor:
        """Returns the output with infinitely fine levels."""
        per_channel, rescale = self.channels is not None, bool(self.spec.rescale)
        return dorefa_ideal_weight(x, bits=self.bits, per_channel=per_channel, rescale=rescale)

    def on_grid(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns `ideal`, the output and the step between neighbouring levels, all before rescaling."""
        x, bits, per_channel = x.detach(), self.bits, self.channels is not None
        return (
            dorefa_ideal_weight(x, bits=bits, per_channel=per_channel),
            dorefa_quantize_weight(x, bits=bits, per_channel=per_channel),
            dorefa_weight_step(x, bits=bits, per_channel=per_channel),
        )


@final
class DoReFaInputQuantizer(Quantizer):
    """DoReFa of a layer's input: clips to [0, 1], rounds to 2^k levels; nothing learned."""

    def forward(self, x: Tensor) -> Tensor:
        return dorefa_quantize_activation(x, bits=self.bits)

    def _codes(self, x: Tensor) -> Tensor:
        return dorefa_activation_codes(x, bits=self.bits)

    def clipped(self, x: Tensor) -> Tensor:
        return (x.detach() < 0) | (x.detach() > 1)
