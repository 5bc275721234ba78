"""The noise that quantization adds to the weights, measured layer by layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from qreg_yolo.quant.base import Quantizer
from qreg_yolo.quant.convert import quantized_layers


@dataclass(frozen=True, kw_only=True)
class LayerNoise:
    """Steps and weight noise of one quantized layer; what does not apply is None."""

    weight_step: float | None
    """LSQ's step of the weight (mean over channels), in the weight's unit."""
    input_step: float | None
    """Distance of the input's neighbouring levels, in the input's unit."""
    variance: float | None
    """Variance of ``fake-quantized - float weight``, QReg's sigma squared (arXiv 2206.12372, section 3)."""
    relative: float | None
    """The same over the variance of the float weight."""


def layer_noise(model: nn.Module) -> dict[str, LayerNoise]:
    """Returns steps and weight noise of every quantized layer of a calibrated model, by full name.

    DoReFa rescales the weights; its noise is measured after the scalar factor that brings the result nearest to them.
    """
    return {name: _of(layer.weight, layer) for name, layer in quantized_layers(model).items()}


@torch.no_grad()
def _of(weight: torch.Tensor, layer: nn.Module) -> LayerNoise:
    quantizer, act = layer.weight_fake_quant, layer.input_fake_quant
    variance = relative = None
    if isinstance(quantizer, Quantizer):
        plain, quantized = weight.double(), quantizer(weight).double()
        scale = 1.0 if quantizer.spec.method in ("lsq", "lsq+") else best_scale(plain, quantized)
        variance = float((scale * quantized - plain).var(correction=0))
        relative = variance / max(float(plain.var(correction=0)), 1e-300)
    return LayerNoise(
        weight_step=level_distance(quantizer) if isinstance(quantizer, Quantizer) else None,
        input_step=level_distance(act) if isinstance(act, Quantizer) else None,
        variance=variance,
        relative=relative,
    )


def best_scale(plain: torch.Tensor, quantized: torch.Tensor) -> float:
    """Returns the factor that brings ``quantized`` nearest to ``plain`` (least squares)."""
    return float((plain * quantized).sum() / quantized.square().sum().clamp_min(1e-300))


def level_distance(quantizer: Quantizer) -> float | None:
    """Returns the distance of neighbouring levels (mean over channels), or None where it follows the tensor."""
    parameters = dict(quantizer.named_parameters(recurse=False))
    if "step_size" in parameters:
        return float(parameters["step_size"].detach().mean())
    low, high = quantizer.grid()
    if "clip_value" in parameters:
        return float(parameters["clip_value"].detach()) / (high - low)
    return None
