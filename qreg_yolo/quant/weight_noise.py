"""The noise that quantization adds to the weights, measured layer by layer: its size, its law, and the uniform model.

QReg (arXiv 2206.12372, section 3) writes a quantized weight as ``w_q = w + delta``. Here ``w`` is what is rounded: the
weight itself for LSQ and LSQ+, ``tanh(w) / max|tanh(w)|`` for DoReFa at two bits and more, whose levels span [-1, 1]
whatever the weight is. All variances are in the square of that unit.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from qreg_yolo.errors import InvalidValueError
from qreg_yolo.quant.base import Quantizer
from qreg_yolo.quant.convert import distinct_layers
from qreg_yolo.quant.layers import WEIGHT_QUANTIZERS, QuantLayer
from qreg_yolo.quant.spec import FLOAT_BITS, LayerPlan

Rounding = tuple[Quantizer, Tensor]
"""A calibrated weight quantizer, and the weight that it is given."""
_COLUMNS = {"noise": "sigma2", "noise_ratio": "ratio"}
"""Kind of a column of ``results.csv`` -> the number in it."""
_MORE_COLUMNS = {
    "noise_uniform": "sigma2_uniform",
    "noise_clipped": "sigma2_clipped",
    "clipped": "clipped",
    "noise_kurtosis": "kurtosis",
    "noise_sqnr_db": "sqnr_db",
    "noise_entropy": "entropy",
}
"""Likewise, those that have to be asked for."""


@dataclass(frozen=True, kw_only=True)
class WeightNoise:
    """What quantization adds to the weights of one layer, or of several together (`pooled`)."""

    weights: int
    """Number of weights."""
    bits: int | None
    """1..8, or 32; None: of several widths."""
    step: float | None
    """Mean distance of neighbouring levels; None: in full precision, or of several layers."""
    sigma2: float
    """Variance of ``delta``."""
    sigma2_uniform: float
    """What the uniform model says: ``s^2 / 12`` of every weight that is not clipped, 0 of the others, averaged."""
    sigma2_clipped: float
    """The part of `sigma2` that comes from clipped weights; the rest is to be compared with `sigma2_uniform`."""
    clipped: float
    """Share of the weights beyond the range, 0..1."""
    variance: float
    """Variance of what is rounded."""
    signal: float
    """Mean square of what is rounded."""
    error: float
    """Mean square of ``delta``: its variance, and its mean squared."""
    kurtosis: float | None
    """Fourth moment of ``delta`` over its variance squared: normal 3, uniform 1.8; None: there is no noise."""
    entropy: float | None
    """Entropy of the codes in use, bits per weight, at most `bits`; None: in full precision."""
    codes_used: int | None
    """Distinct codes in use, at most 2^bits; None: in full precision, or of several layers."""

    @property
    def ratio(self) -> float | None:
        """``sigma2 / variance``; None for weights that are all equal."""
        return self.sigma2 / self.variance if self.variance > 0 else None

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise, ``10 log10(signal / error)`` dB; infinite without noise."""
        return 10 * math.log10(max(self.signal, 1e-300) / self.error) if self.error > 0 else math.inf

    def to_dict(self) -> dict[str, Any]:
        """Returns fields and derived numbers as plain values for JSON (no noise: an SQNR of None)."""
        return {**asdict(self), "ratio": self.ratio, "sqnr_db": self.sqnr_db if math.isfinite(self.sqnr_db) else None}


@torch.no_grad()
def weight_noise(quantizer: Quantizer, weight: Tensor) -> WeightNoise:
    """Returns the noise that a weight quantizer adds to a weight.

    Args:
        quantizer: Calibrated.
        weight: `(c_out, ...)`.

    Raises:
        ValueError: The weight has no elements.
    """
    if weight.numel() == 0:
        raise InvalidValueError(
            f"A weight of shape {list(weight.shape)} has no elements, so it has no noise. Leave it out."
        )
    ideal, quantized = quantizer.on_grid(weight)
    delta = quantized.to(ideal.dtype) - ideal
    squares = (delta - delta.mean()).square()
    sigma2, clipped, spacing = squares.mean(), quantizer.clipped(weight), quantizer.spacing(weight)
    low, high = quantizer.grid()
    counts = torch.bincount(quantizer.to_int(weight).flatten().long() - low, minlength=high - low + 1)
    shares = counts / weight.numel()
    measured = (
        spacing.mean(),
        sigma2,
        torch.where(clipped, 0.0, spacing.square() / 12).mean(),
        torch.where(clipped, squares, 0.0).mean(),
        clipped.float().mean(),
        ideal.var(correction=0),
        ideal.square().mean(),
        delta.square().mean(),
        (squares / sigma2.clamp_min(1e-30)).square().mean(),
        torch.special.entr(shares).sum() / math.log(2),
        (counts > 0).sum(),
    )
    step, var, uniform, beyond, share, variance, signal, error, kurtosis, entropy, used = torch.stack(
        [value.double() for value in measured]
    ).tolist()  # one look at the device
    return WeightNoise(
        weights=weight.numel(), bits=quantizer.bits, step=step, sigma2=var, sigma2_uniform=uniform,
        sigma2_clipped=beyond, clipped=share, variance=variance, signal=signal, error=error,
        kurtosis=kurtosis if var > 0 else None, entropy=entropy, codes_used=int(used),
    )  # fmt: skip


def no_noise(weight: Tensor) -> WeightNoise:
    """Returns the noise of a weight in full precision: none."""
    plain = weight.detach()
    return WeightNoise(
        weights=plain.numel(), bits=FLOAT_BITS, step=None, sigma2=0.0, sigma2_uniform=0.0, sigma2_clipped=0.0,
        clipped=0.0, variance=float(plain.var(correction=0)), signal=float(plain.square().mean()), error=0.0,
        kurtosis=None, entropy=None, codes_used=None,
    )  # fmt: skip


def layer_noise(model: nn.Module) -> dict[str, WeightNoise]:
    """Returns the weight noise of every layer of a calibrated model whose weights are quantized, by full name.

    A layer that is held in several places comes once, under the first of its names.
    """
    return noise_of(own_rounding(model))


def noise_of(rounding: Mapping[str, Rounding]) -> dict[str, WeightNoise]:
    """Returns the noise of several layers.

    Args:
        rounding: By the full name of the layer.

    Raises:
        ValueError: A layer whose weight has no elements; it is named.
    """
    found = {}
    for name, (quantizer, weight) in rounding.items():
        try:
            found[name] = weight_noise(quantizer, weight)
        except ValueError as error:
            raise InvalidValueError(f"Layer '{name}': {error}") from error
    return found


def own_rounding(model: nn.Module) -> dict[str, Rounding]:
    """Returns what a quantized model does to its weights, by the full name of the layer."""
    return {
        name: (layer.weight_fake_quant, layer.weight.detach())
        for name, layer in distinct_layers(model).items()
        if isinstance(layer, QuantLayer) and layer.weight_fake_quant is not None
    }


def rounding_after_training(model: nn.Module, plans: Mapping[str, LayerPlan]) -> dict[str, Rounding]:
    """Returns what quantization after training would do to a model's weights; the model is not touched.

    Of a quantized model the latent float weights are rounded, as its network uses them (`float_weight`). DoReFa on
    DoReFa takes the weight that was trained, and keeps the standard deviation where the training did.

    Args:
        model: Float or quantized.
        plans: By the full name of the layer; those that leave the weight in full precision are passed over.
    """
    found = {}
    own = own_rounding(model)
    for name, plan in plans.items():
        if plan.weight is not None:
            spec, weight = plan.weight, float_weight(model, name)
            if name in own and own[name][0].spec.method == spec.method == "dorefa":
                spec, weight = replace(spec, rescale=own[name][0].spec.rescale), own[name][1]
            quantizer = WEIGHT_QUANTIZERS[spec.method](spec, channels=weight.shape[0]).to(weight.device)
            if weight.numel():
                quantizer.calibrate(weight)
            found[name] = quantizer, weight
    return found


@torch.no_grad()
def float_weight(model: nn.Module, name: str) -> Tensor:
    """Returns the weight that a layer would use with infinitely many levels: of a float layer its own."""
    layer = model.get_submodule(name)
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if isinstance(layer, QuantLayer) and layer.weight_fake_quant is not None:
        weight = layer.weight_fake_quant.ideal(weight).to(weight.dtype)
    return weight.detach()


def pooled(parts: Collection[WeightNoise]) -> WeightNoise:
    """Returns the noise of several layers together: every weight counts the same, about its own layer's mean.

    Kurtosis and entropy are means too, so that layers of different scale do not look like heavy tails.
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
    """Returns the weight noise of a model as columns of ``results.csv``, such as ``noise/<layer>``.

    Args:
        model: Calibrated; one without quantized weights has no columns.
        everything: Beside the variance and its ratio to the weight's own also the uniform prediction, the clipped part
            and share, kurtosis, SQNR and entropy; and all of it for the layers together, as ``noise/total``.
    """
    layers = layer_noise(model)
    if not layers:
        return {}
    rows = {**layers, "total": pooled(layers.values())} if everything else layers
    kinds = {**_COLUMNS, **_MORE_COLUMNS} if everything else _COLUMNS
    return {
        f"{kind}/{name}": math.nan if (value := getattr(noise, number)) is None else float(value)
        for name, noise in rows.items()
        for kind, number in kinds.items()
    }
