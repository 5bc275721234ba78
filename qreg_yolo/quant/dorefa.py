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
    dorefa_weight_spacing,
)


@final
class DoReFaWeightQuantizer(Quantizer):
    """DoReFa of a weight: tanh, division by the largest magnitude, 2^k uniform levels on [-1, 1]; nothing learned."""

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

    def to_int(self, x: Tensor) -> Tensor:
        return dorefa_weight_codes(x, bits=self.bits, per_channel=self.channels is not None).to(torch.int32)

    def grid(self) -> tuple[int, int]:
        return 0, 2**self.bits - 1

    def clipped(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x, dtype=torch.bool)

    def ideal(self, x: Tensor) -> Tensor:
        return self._ideal(x, rescale=bool(self.spec.rescale))

    def on_grid(self, x: Tensor) -> tuple[Tensor, Tensor]:
        quantized = dorefa_quantize_weight(x.detach(), bits=self.bits, per_channel=self.channels is not None)
        return self._ideal(x, rescale=False), quantized

    def spacing(self, x: Tensor) -> Tensor:
        return dorefa_weight_spacing(x, bits=self.bits, per_channel=self.channels is not None)

    def _ideal(self, x: Tensor, rescale: bool) -> Tensor:
        return dorefa_ideal_weight(x, bits=self.bits, per_channel=self.channels is not None, rescale=rescale)


@final
class DoReFaInputQuantizer(Quantizer):
    """DoReFa of a layer's input: clips to [0, 1], rounds to 2^k levels; nothing learned."""

    def forward(self, x: Tensor) -> Tensor:
        return dorefa_quantize_activation(x, bits=self.bits)

    def to_int(self, x: Tensor) -> Tensor:
        return dorefa_activation_codes(x.detach(), bits=self.bits).to(torch.int32)

    def grid(self) -> tuple[int, int]:
        return 0, 2**self.bits - 1

    def spacing(self, x: Tensor) -> Tensor:
        return torch.full((), 1.0 / (2**self.bits - 1), device=x.device)

    def clipped(self, x: Tensor) -> Tensor:
        return (x.detach() < 0) | (x.detach() > 1)
