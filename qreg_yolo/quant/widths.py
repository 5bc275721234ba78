"""Widths of a network's quantizers while it trains, below the plan that its last stage has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from qreg_yolo.quant.base import Quantizer
from qreg_yolo.quant.convert import quantized_layers
from qreg_yolo.quant.stages import FLOAT_BITS, Stage

Widths = Mapping[str, tuple[int, int]]
"""Full name of a layer -> widths of its weight and its input; 32: full precision."""


def widths_in(stage: Stage | None, planned: Widths) -> Widths:
    """Returns the widths of a stage; None: the last one, which has the planned ones."""
    if stage is None:
        return planned
    return {name: stage.widths(name, *widths) for name, widths in planned.items()}


def set_widths(model: nn.Module, widths: Widths) -> list[Quantizer]:
    """Sets the widths of all quantizers, in place; returns those that quantize at another one than before.

    Their ranges stay, and belong to the old width.
    """
    changed = []
    for name, layer in quantized_layers(model).items():
        for quantizer, bits in zip((layer.weight_fake_quant, layer.input_fake_quant), widths[name], strict=True):
            if quantizer is None:
                continue
            before = quantizer.bits if quantizer.active else FLOAT_BITS
            quantizer.active = bits != FLOAT_BITS
            if quantizer.active:
                quantizer.spec = replace(quantizer.spec, bits=bits)
                if bits != before:
                    changed.append(quantizer)
    return changed
