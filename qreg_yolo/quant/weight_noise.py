"""Noise that quantization adds to the weights of each layer: its size, its distribution, and the uniform model.

QReg (arXiv 2206.12372, section 3) writes a quantized weight as ``w_q = w + delta``. Here ``w`` is the rounded quantity:
the weight itself for LSQ and LSQ+, ``tanh(w) / max|tanh(w)|`` for DoReFa at two bits and more, whose levels span
[-1, 1] for any weight. All variances are in the square of that unit.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from qreg_yolo.errors import InvalidValueError
from qreg_yolo.quant.convert import distinct_layers
from qreg_yolo.quant.layers import WEIGHT_QUANTIZERS, QuantLayer, WeightQuantizer
from qreg_yolo.quant.spec import FLOAT_BITS, LayerPlan

QuantizedWeight: TypeAlias = tuple[WeightQuantizer, Tensor]
"""A calibrated weight quantizer and its input."""
_COLUMNS = {
    "noise": "sigma2",
    "noise_ratio": "ratio",
    "noise_uniform": "sigma2_uniform",
    "noise_clipped": "sigma2_clipped",
    "clipped": "clipped",
    "noise_kurtosis": "kurtosis",
    "noise_sqnr_db": "sqnr_db",
    "noise_entropy": "entropy",
}
"""Kind of a column of ``results.csv`` -> field of `WeightNoise`."""


@dataclass(frozen=True, kw_only=True)
class WeightNoise:
    """Noise of the weights of one layer, or of several layers together (`pooled`)."""

    weights: int
    """Number of weights."""
    bits: int | None
    """1..8, or 32; None: several widths."""
    step: float | None
    """Mean step between neighbouring levels; None: full precision, or several layers."""
    sigma2: float
    """Variance of ``delta``."""
    sigma2_uniform: float
    """Prediction of the uniform model: mean of ``s^2 / 12`` for each unclipped weight and 0 for each clipped one."""
    sigma2_clipped: float
    """Part of `sigma2` from clipped weights; compare the rest with `sigma2_uniform`."""
    clipped: float
    """Share of the weights beyond the range, 0..1."""
    variance: float
    """Variance of ``w``."""
    signal: float
    """Mean square of ``w``."""
    error: float
    """Mean square of ``delta``."""
    kurtosis: float | None
    """Fourth moment of ``delta`` over its variance squared: normal 3, uniform 1.8; None: no noise."""
    entropy: float | None
    """Entropy of the codes, bits per weight, at most `bits`; None: full precision."""
    codes_used: int | None
    """Distinct codes in use, at most 2^bits; None: full precision, or several layers."""

    @property
    def ratio(self) -> float | None:
        """``sigma2 / variance``; None if all weights are equal."""
        return self.sigma2 / self.variance if self.variance > 0 else None

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise, ``10 log10(signal / error)`` dB; infinite without noise."""
        return 10 * math.log10(max(self.signal, 1e-300) / self.error) if self.error > 0 else math.inf

    def to_dict(self) -> dict[str, Any]:
        """Returns fields and derived numbers as plain values for JSON (without noise the SQNR is None)."""
        return {**asdict(self), "ratio": self.ratio, "sqnr_db": self.sqnr_db if math.isfinite(self.sqnr_db) else None}


@torch.no_grad()
def weight_noise(quantizer: WeightQuantizer, weight: Tensor) -> WeightNoise:
    """Returns the noise that a calibrated quantizer adds to a weight `(c_out, ...)`.

    Raises:
        ValueError: The weight has no elements.
    """
    if weight.numel() == 0:
        raise InvalidValueError(
            f"A weight of shape {list(weight.shape)} has no elements, so it has no noise. Leave it out."
        )
    ideal, quantized, step = quantizer.on_grid(weight)
    delta = quantized.to(ideal.dtype) - ideal
    squares = (delta - delta.mean()).square()
    sigma2, clipped = squares.mean(), quantizer.clipped(weight)
    codes = quantizer.to_int(weight).flatten().long() - quantizer.quant_min
    counts = torch.bincount(codes, minlength=quantizer.quant_max - quantizer.quant_min + 1)
    shares = counts / weight.numel()
    measured = (
        step.mean(),
        sigma2,
        torch.where(clipped, 0.0, step.square() / 12).mean(),
        torch.where(clipped, squares, 0.0).mean(),
        clipped.float().mean(),
        ideal.var(correction=0),
        ideal.square().mean(),
        delta.square().mean(),
        (squares / sigma2.clamp_min(1e-30)).square().mean(),
        torch.special.entr(shares).sum() / math.log(2),
        (counts > 0).sum(),
    )
    mean_step, var, uniform, beyond, share, variance, signal, error, kurtosis, entropy, used = torch.stack(
        [value.double() for value in measured]
    ).tolist()  # one transfer from the device
    return WeightNoise(
        weights=weight.numel(), bits=quantizer.bits, step=mean_step, sigma2=var, sigma2_uniform=uniform,
        sigma2_clipped=beyond, clipped=share, variance=variance, signal=signal, error=error,
        kurtosis=kurtosis if var > 0 else None, entropy=entropy, codes_used=int(used),
    )  # fmt: skip


def no_noise(weight: Tensor) -> WeightNoise:
    """Returns the zero noise of a weight in full precision."""
    plain = weight.detach()
    return WeightNoise(
        weights=plain.numel(), bits=FLOAT_BITS, step=None, sigma2=0.0, sigma2_uniform=0.0, sigma2_clipped=0.0,
        clipped=0.0, variance=float(plain.var(correction=0)), signal=float(plain.square().mean()), error=0.0,
        kurtosis=None, entropy=None, codes_used=None,
    )  # fmt: skip


def layer_noise(model: nn.Module) -> dict[str, WeightNoise]:
    """Returns the weight noise of every layer with quantized weights, under the first of its full names."""
    return noise_of(quantized_weights(model))


def noise_of(weights: Mapping[str, QuantizedWeight]) -> dict[str, WeightNoise]:
    """Returns the noise of each layer, by full name.

    Raises:
        ValueError: A layer whose weight has no elements; it is named.
    """
    noises = {}
    for name, (quantizer, weight) in weights.items():
        try:
            noises[name] = weight_noise(quantizer, weight)
        except ValueError as error:
            raise InvalidValueError(f"Layer '{name}': {error}") from error
    return noises


def quantized_weights(model: nn.Module) -> dict[str, QuantizedWeight]:
    """Returns the weight quantizers of a model and their inputs, by the full name of the layer."""
    return {
        name: (layer.weight_fake_quant, layer.weight.detach())
        for name, layer in distinct_layers(model).items()
        if isinstance(layer, QuantLayer) and layer.weight_fake_quant is not None and layer.weight_fake_quant.active
    }


def ptq_weights(model: nn.Module, plans: Mapping[str, LayerPlan]) -> dict[str, QuantizedWeight]:
    """Returns new, calibrated weight quantizers for post-training quantization; the model stays unchanged.

    A quantized model's latent float weights are quantized as its network uses them (`float_weight`). DoReFa on DoReFa
    takes the trained weight, and keeps the standard deviation if the training did.

    Args:
        model: Float or quantized.
        plans: Full name -> plan; plans with a float weight are skipped.
    """
    weights = {}
    trained = quantized_weights(model)
    for name, plan in plans.items():
        if plan.weight is not None:
            spec, weight = plan.weight, float_weight(model, name)
            if name in trained and trained[name][0].spec.method == spec.method == "dorefa":
                spec, weight = replace(spec, rescale=trained[name][0].spec.rescale), trained[name][1]
            quantizer = WEIGHT_QUANTIZERS[spec.method](spec, channels=weight.shape[0]).to(weight.device)
            if weight.numel():
                quantizer.calibrate(weight)
            weights[name] = quantizer, weight
    return weights


@torch.no_grad()
def float_weight(model: nn.Module, name: str) -> Tensor:
    """Returns the weight that a layer would use with infinitely many levels; a float layer's own weight."""
    layer = model.get_submodule(name)
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if isinstance(layer, QuantLayer) and layer.weight_fake_quant is not None:
        weight = layer.weight_fake_quant.ideal(weight).to(weight.dtype)
    return weight.detach()


def pooled(parts: Collection[WeightNoise]) -> WeightNoise:
    """Returns the noise of several layers together: means over all weights, variances about each layer's mean.

    Kurtosis and entropy are averaged too, so that layers of different scale do not look like heavy tails.
    """
    total = sum(part.weights for part in parts)

    def mean(name: str) -> float | None:
        known = [(part.weights, getattr(part, name)) for part in parts if getattr(part, name) is not None]
        count = sum(weights for weights, _ in known)
        return sum(weights * value for weights, value in known) / count if count else None

    means = ("sigma2", "sigma2_uniform", "sigma2_clipped", "clipped", "variance", "signal", "error")
    widths = {part.bits for part in parts}
    return WeightNoise(
        weights=total, bits=widths.pop() if len(widths) == 1 else None, step=None, codes_used=None,
        kurtosis=mean("kurtosis"), entropy=mean("entropy"), **{name: mean(name) or 0.0 for name in means},
    )  # fmt: skip


def noise_columns(model: nn.Module, *, everything: bool) -> dict[str, float]:
    """Returns the weight noise of a calibrated model as columns of ``results.csv``, such as ``noise/<layer>``.

    Args:
        model: A model without quantized weights has no columns.
        everything: Whether to add to the variance and its ratio to the weight's also the uniform prediction, clipped
            part and share, kurtosis, SQNR and entropy, and the same for all layers together as ``noise/total``.
    """
    layers = layer_noise(model)
    if not layers:
        return {}
    rows = {**layers, "total": pooled(layers.values())} if everything else layers
    kinds = _COLUMNS if everything else ("noise", "noise_ratio")
    return {
        f"{kind}/{name}": math.nan if (value := getattr(noise, _COLUMNS[kind])) is None else float(value)
        for name, noise in rows.items()
        for kind in kinds
    }
