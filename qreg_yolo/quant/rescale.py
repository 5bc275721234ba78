"""Scales of a layer's outputs that are learned beside it, then folded into its weight, whose codes stay."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from qreg_yolo.quant.layers import QuantLayer
from qreg_yolo.quant.lsq import LSQWeightQuantizer

_SMALLEST = 1e-3
"""Floor of a scale: the step that it is folded into is positive."""


class ScaledLayer(nn.Module):
    """A convolution or linear layer whose output, bias included, is multiplied by one learned factor per channel.

    Args:
        layer: The layer, quantized or not.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        weight = layer.weight
        assert isinstance(weight, Tensor)
        shape = (len(weight), *[1] * (weight.ndim - 2))
        self.scale = nn.Parameter(torch.ones(shape, device=weight.device))

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = self.layer(x) * self.scale.clamp_min(_SMALLEST)
        return scaled


def can_be_scaled(layer: nn.Module) -> bool:
    """Returns whether a scale can be folded into a layer's weight without changing its codes.

    DoReFa's levels depend on the weight itself, so that a scaled weight has the same values as before.
    """
    return not isinstance(layer, QuantLayer) or not (
        layer.weight_fake_quant is not None and not isinstance(layer.weight_fake_quant, LSQWeightQuantizer)
    )


def scale_layers(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Wraps layers into `ScaledLayer`, in place; returns the names of those that `can_be_scaled`."""
    scaled = []
    for name in names:
        layer = model.get_submodule(name)
        if can_be_scaled(layer):
            _put(model, name, ScaledLayer(layer))
            scaled.append(name)
    return scaled


@torch.no_grad()
def fold_scales(model: nn.Module, names: Iterable[str]) -> None:
    """Replaces each `ScaledLayer` by its layer, with the scale in its weight and bias; in place.

    A quantized weight gets one step per output channel and lies on its levels then: all of its codes stay.
    """
    for name in names:
        wrapped = model.get_submodule(name)
        assert isinstance(wrapped, ScaledLayer)
        layer: Any = wrapped.layer
        scale = wrapped.scale.clamp_min(_SMALLEST).flatten()
        rows = scale.view(-1, *[1] * (layer.weight.ndim - 1))
        quantizer = getattr(layer, "weight_fake_quant", None)
        if quantizer is None:
            layer.weight.mul_(rows)
        else:
            layer.register_module("weight_fake_quant", _per_channel(quantizer, layer.weight, scale))
        if layer.bias is not None:
            layer.bias.mul_(scale)
        _put(model, name, layer)


def _per_channel(quantizer: LSQWeightQuantizer, weight: Tensor, scale: Tensor) -> LSQWeightQuantizer:
    """Returns a quantizer with the scaled step of each channel; puts the weight onto its levels, in place."""
    codes = quantizer.to_int(weight)
    spec = replace(quantizer.spec, per_channel=True)
    found = LSQWeightQuantizer(spec, channels=len(weight)).to(weight.device).train(quantizer.training)
    found.step_size.copy_(quantizer.step_size.abs() * scale)
    found.mark_initialized()
    weight.copy_(codes * found.step_size.view(-1, *[1] * (weight.ndim - 1)))
    return found


def _put(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, layer)
