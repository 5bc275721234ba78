"""Oscillating weights in training: their columns, and freezing, dampening and transition rates around a step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from qreg_yolo.config.oscillation import FREEZE_FROM, KEY, OscillationOptions
from qreg_yolo.quant.convert import distinct_layers
from qreg_yolo.quant.layers import QuantLayer, WeightQuantizer
from qreg_yolo.quant.lsq import LSQWeightQuantizer
from qreg_yolo.quant.oscillation import (
    OSCILLATING,
    CodeHistory,
    TransitionRate,
    cosine,
    dampening_gradient,
    dampening_loss,
    frozen_step_gradient,
    hold_frozen,
    near_threshold,
)
from qreg_yolo.training.extensions import Extension, Extensions

LOW_BITS = 4
"""Widest weights that are frozen (arXiv 2203.11086) and whose transition rate is controlled."""
_BITS, _RATE = "latent_bits", "latent_lr"
"""Keys of an optimizer group of latent weights: their width, and the initial learning rate."""


def oscillation_extensions(model: nn.Module, options: OscillationOptions, *, log: bool) -> Extensions:
    """Returns the extension that logs or holds oscillating weights; none if nothing is asked for or quantized.

    Args:
        model: A quantized and calibrated model, not wrapped; its weights stay the same Parameter objects.
        options: The techniques that are on.
        log: Whether ``results.csv`` has the columns of each layer (``--log-noise``).
    """
    weights = _weights(model, freeze=options.freeze_codes > 0) if log or options.is_on else {}
    return Extensions(*([Oscillation(weights, options, log=log)] if weights else []))


@dataclass
class _Weight:
    """One quantized weight and what is known of its codes."""

    weight: nn.Parameter
    quantizer: WeightQuantizer
    history: CodeHistory
    changed: Tensor
    """Codes that changed, summed over the epoch's steps, 0-D."""
    oscillating: Tensor
    """Oscillating weights, summed over the epoch's steps, 0-D."""

    @property
    def step(self) -> LSQWeightQuantizer | None:
        """The quantizer if it has a step, which all techniques need."""
        return self.quantizer if isinstance(self.quantizer, LSQWeightQuantizer) else None

    def codes(self) -> Tensor:
        """Returns the present codes."""
        return self.quantizer.to_int(self.weight)


class Oscillation(Extension):
    """Columns about oscillating weights, and the techniques of `OscillationOptions`.

    **Freezing** sets a frozen weight to its code times the step after each step of the optimizer; its own gradient is
    0, and its part of the step's gradient is that of ``code * s``. The weights of the averaged model, which validation
    and checkpoints use, are set to the same code times the averaged step: a code is frozen in both at once.

    **Dampening** adds its gradient in closed form to those of the weights, once per step and before they are clipped:
    nothing enters the graph, so that compiling, several processes and accumulated batches need no care. Its factor
    is relative to the mean loss of an image, although a detector's loss sums over images.

    **Transition rates** put the weights of each width of at most 4 bits into an optimizer group of their own, whose
    learning rate is ``U_t`` times the initial one during a step, instead of the schedule's and the warm-up's. Momentum
    and the rest of the optimizer's direction are unchanged; a weight decay is part of the direction (SGD) or is
    multiplied by the learning rate (AdamW), so that it follows ``U_t`` as well. These weights' steps keep their values.
    The share of changed codes is read from the device once per step.

    Args:
        weights: From `_weights`.
        options: The techniques that are on.
        log: Whether each layer has columns.
    """

    name = KEY

    def __init__(self, weights: dict[str, _Weight], options: OscillationOptions, *, log: bool) -> None:
        self._weights = weights
        self._options, self._log = options, log
        low = {one.quantizer.bits for one in weights.values() if one.step and one.quantizer.bits <= LOW_BITS}
        scale, eta = options.transition_rate, options.transition_eta
        self._rates = {bits: TransitionRate(bits, scale, eta) for bits in sorted(low) if scale}
        self._optimizer: torch.optim.Optimizer | None = None
        self._scheduled: list[float] = []
        self._averaged: tuple[nn.Module | None, dict[str, QuantLayer]] = None, {}
        self._progress = 0.0
        self._steps = 0

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        for bits in self._rates:
            own = {id(one.weight) for one in self._weights.values() if one.step and one.quantizer.bits == bits}
            for group in list(optimizer.param_groups):
                latent = [p for p in group["params"] if id(p) in own]
                if latent:
                    group["params"] = [p for p in group["params"] if id(p) not in own]
                    optimizer.add_param_group({**group, "params": latent, _BITS: bits, _RATE: group["lr"]})

    @torch.no_grad()
    def before_step(self, progress: float, scale: float) -> None:
        self._progress = progress
        dampen = scale * cosine(0.0, self._options.dampen, progress)
        for one in self._weights.values():
            if (quantizer := one.step) is not None and (gradient := one.weight.grad) is not None:
                self._change_gradients(one, quantizer, gradient, dampen)
        groups = self._latent_groups()
        self._scheduled = [group["lr"] for group in groups]
        for group in groups:
            group["lr"] = self._rates[group[_BITS]].factor * group[_RATE]

    def _change_gradients(self, one: _Weight, quantizer: LSQWeightQuantizer, gradient: Tensor, dampen: float) -> None:
        if one.history.frozen is not None:
            if quantizer.step_size.grad is not None:
                quantizer.step_size.grad += frozen_step_gradient(gradient, quantizer, one.history)
            gradient.masked_fill_(one.history.frozen, 0.0)
        if dampen:
            gradient.add_(dampening_gradient(one.weight, quantizer), alpha=dampen)
        if quantizer.bits in self._rates:
            quantizer.step_size.grad = None  # an optimizer leaves a parameter without a gradient alone

    def _latent_groups(self) -> list[dict[str, Any]]:
        """Returns the optimizer's groups of latent weights; restoring a state replaces their dictionaries."""
        return [group for group in self._optimizer.param_groups if _BITS in group] if self._optimizer else []

    @torch.no_grad()
    def after_step(self, averaged: nn.Module | None) -> None:
        for group, rate in zip(self._latent_groups(), self._scheduled, strict=True):
            group["lr"] = rate
        counts = []
        for one in self._weights.values():
            counts.append(one.history.update(one.codes()).sum())
            one.changed += counts[-1]
            one.oscillating += (one.history.frequency > OSCILLATING).sum()
        self._steps += 1
        if self._options.freeze_codes:
            self._freeze(averaged)
        if self._rates:
            changed = list(zip(self._weights.values(), torch.stack(counts).tolist(), strict=True))  # one transfer
            for bits, control in self._rates.items():
                mine = [(one.weight.numel(), n) for one, n in changed if one.step and one.quantizer.bits == bits]
                control.update(sum(n for _, n in mine) / sum(size for size, _ in mine), self._progress)

    def _freeze(self, averaged: nn.Module | None) -> None:
        """Freezes what oscillates too often, and sets all frozen weights, of the averaged model too."""
        if averaged is not self._averaged[0]:
            self._averaged = averaged, {} if averaged is None else _layers(averaged)
        threshold = cosine(FREEZE_FROM, self._options.freeze_codes, self._progress)
        for name, one in self._weights.items():
            if one.step is None or one.history.frozen is None:
                continue
            low, high = one.step.quant_min, one.step.quant_max
            one.history.freeze(threshold, quant_min=low, quant_max=high, binary=one.step.binary)
            hold_frozen(one.weight, one.step, one.history)
            if (layer := self._averaged[1].get(name)) is not None:
                assert isinstance(layer.weight_fake_quant, LSQWeightQuantizer)
                hold_frozen(layer.weight, layer.weight_fake_quant, one.history)

    @torch.no_grad()
    def columns(self) -> dict[str, float]:
        """Returns the columns of the epoch that ends, and begins the next one.

        ``changed/<layer>``: share of the codes that differ from those before a step of the optimizer;
        ``oscillating/<layer>``: share of the weights with a frequency above 0.005; both are means over the steps of the
        epoch, nan without one. ``near_threshold/<layer>``: share within 5 % of a threshold (`near_threshold`), at the
        end of the epoch. Each also as ``/total``, over the weights of all layers. Where a technique is on:
        ``frozen/total`` (share of the weights that can be frozen), ``dampening/total`` (the loss before its factor),
        ``transition_rate/w<bits>`` (``K_t``) and ``transition_lr/w<bits>`` (``U_t``, a multiple of the initial learning
        rate), all at the end of the epoch.
        """
        found = self._logged() if self._log else {}
        for one in self._weights.values():
            one.changed.zero_()
            one.oscillating.zero_()
        self._steps = 0
        held = [(one, one.step) for one in self._weights.values() if one.step is not None]
        if self._options.freeze_codes:
            masks = [one.history.frozen for one, _ in held if one.history.frozen is not None]
            count, size = sum(int(mask.sum()) for mask in masks), sum(mask.numel() for mask in masks)
            found["frozen/total"] = count / size if size else math.nan
        if self._options.dampen:
            found["dampening/total"] = sum(float(dampening_loss(one.weight, step)) for one, step in held)
        for bits, rate in self._rates.items():
            found |= {f"transition_rate/w{bits}": rate.rate, f"transition_lr/w{bits}": rate.factor}
        return found

    def _logged(self) -> dict[str, float]:
        near = [near_threshold(one.weight, one.quantizer).sum() for one in self._weights.values()]
        sums = {
            "changed": ([one.changed for one in self._weights.values()], self._steps),
            "oscillating": ([one.oscillating for one in self._weights.values()], self._steps),
            "near_threshold": (near, 1),
        }
        sizes = [one.weight.numel() for one in self._weights.values()]
        found = {}
        for kind, (tensors, steps) in sums.items():
            counts = torch.stack(tensors).tolist()
            rows = [*zip(self._weights, counts, sizes, strict=True), ("total", sum(counts), sum(sizes))]
            for name, count, size in rows:
                found[f"{kind}/{name}"] = count / (size * steps) if steps else math.nan
        return found

    def state(self) -> dict[str, Tensor]:
        found = {
            f"{field.name}/{name}": tensor
            for name, one in self._weights.items()
            for field in fields(one.history)
            if (tensor := getattr(one.history, field.name)) is not None
        }
        for bits, rate in self._rates.items():
            found[f"transition/w{bits}"] = torch.tensor([rate.rate, rate.factor], dtype=torch.float64)
        return found

    def restore(self, state: Mapping[str, Tensor]) -> None:
        for key, tensor in self.state().items():  # the histories' own tensors, in the weights' memory format
            tensor.copy_(state[key])
        for bits, rate in self._rates.items():
            rate.rate, rate.factor = state[f"transition/w{bits}"].tolist()


def _layers(model: nn.Module) -> dict[str, QuantLayer]:
    """Returns the layers with quantized weights that have elements, under the first of their full names."""
    return {
        name: layer
        for name, layer in distinct_layers(model).items()
        if isinstance(layer, QuantLayer) and layer.weight_fake_quant is not None and layer.weight.numel()
    }


def _weights(model: nn.Module, *, freeze: bool) -> dict[str, _Weight]:
    """Returns the quantized weights with their present codes, by the full name of the layer."""
    found = {}
    for name, layer in _layers(model).items():
        weight, quantizer = layer.weight, layer.weight_fake_quant
        assert isinstance(weight, nn.Parameter)
        assert quantizer is not None
        freezable = freeze and quantizer.bits <= LOW_BITS and isinstance(quantizer, LSQWeightQuantizer)
        found[name] = _Weight(
            weight=weight, quantizer=quantizer,
            history=CodeHistory.begin(quantizer.to_int(weight), freezable=freezable),
            changed=torch.zeros((), dtype=torch.int64, device=weight.device),
            oscillating=torch.zeros((), dtype=torch.int64, device=weight.device),
        )  # fmt: skip
    return found
