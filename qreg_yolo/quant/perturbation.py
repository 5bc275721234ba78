"""What noise on the weights does to a loss: predicted by its curvature, and measured.

For noise ``d`` of mean 0 and variance ``sigma_l^2`` in layer l, the loss rises on average by half of the trace of its
Hessian times the noise's covariance (docs/theory.md), which has two parts::

    1/2 E[(J d)^T H (J d)]         Gauss-Newton: J = dy/dw, H the Hessian of the loss to the outputs y
    1/2 E[g^T (d^T (d2y/dw2) d)]   curvature of the network: g the gradient of the loss to y

With the squared error ``||y - target||^2`` the first is ``sum_l sigma_l^2 ||dy/dw_l||_F^2``: theorem 3.1 of QReg
(arXiv 2206.12372), corrected. The paper drops the second, which is of the same order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qreg_yolo.quant.intervals import Interval, mean_interval
from qreg_yolo.quant.jacobian import Outputs, Weights, along, first_derivative, second_derivative

Loss = Callable[[Tensor, Any], Tensor]
"""Takes outputs `(b, n)` and their target, returns the losses of the batch's units `(u,)`: samples, or the batch."""
Advance = Callable[[int], object]
"""Told how many batches more are done."""


@dataclass(frozen=True)
class Task:
    """A network as a function of its weights, what it is measured on, and by what."""

    outputs: Outputs
    batches: Sequence[tuple[Tensor, Any]]
    """Inputs `(b, ...)` and target; the whole sample."""
    losses: Mapping[str, Loss]
    """By name."""


@dataclass(frozen=True, kw_only=True)
class LossIncrease:
    """A loss without noise, and by how much noise raises it; intervals are over the draws, or where said the sample."""

    loss: float
    """Mean over the sample, without noise."""
    predicted: Interval
    """The Gauss-Newton part: the theorem's penalty."""
    hessian: Interval
    """The part that the theorem drops."""
    gaussian: Interval
    """Measured under Gaussian noise of each layer's variance."""
    uniform: Interval
    """Measured under uniform noise of each layer's variance."""
    quantization: Interval
    """Measured under the quantization error itself; the interval is over the units of the sample."""

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        parts = ("predicted", "hessian", "gaussian", "uniform", "quantization")
        return {"loss": self.loss, **{name: getattr(self, name).to_dict() for name in parts}}


@torch.no_grad()
def losses_at(task: Task, weights: Weights, advance: Advance) -> dict[str, Tensor]:
    """Returns the losses of all units of the sample, float64 `(units,)`, by name."""
    found: dict[str, list[Tensor]] = {name: [] for name in task.losses}
    for x, target in task.batches:
        y = task.outputs(weights, x)
        for name, loss in task.losses.items():
            found[name].append(loss(y, target).double())
        advance(1)
    return {name: torch.cat(parts) for name, parts in found.items()}


def curvature(task: Task, weights: Weights, direction: Weights, advance: Advance) -> dict[str, tuple[float, float]]:
    """Returns both parts of ``1/2 d^T (d2L/dw2) d`` of every loss along one direction, averaged over the units."""
    sums = {name: torch.zeros(2, dtype=torch.float64) for name in task.losses}
    units = dict.fromkeys(task.losses, 0)
    for x, target in task.batches:
        y, dy, d2y = along(task.outputs, weights, x, direction)
        for name, loss in task.losses.items():
            parts = (second_derivative, y, dy), (first_derivative, y, d2y)
            each = [half(lambda z, loss=loss, t=target: loss(z, t), at, way) for half, at, way in parts]
            sums[name] += torch.stack([part.double().sum() for part in each]).cpu() / 2
            units[name] += len(each[0])
        advance(1)
    return {name: (float(total[0]) / units[name], float(total[1]) / units[name]) for name, total in sums.items()}


def loss_increases(
    task: Task,
    weights: Weights,
    quantized: Weights,
    *,
    draws: int,
    generator: torch.Generator,
    advance: Advance = lambda count: None,
) -> dict[str, LossIncrease]:
    """Returns what noise does to every loss of a task.

    Each draw is used with both signs, which takes the odd orders out: ``(L(w + d) + L(w - d)) / 2 - L(w)``. The
    prediction is taken along the same Gaussian draws, so it has an interval too.

    Args:
        task: The network, the sample and the losses.
        weights: ``w``, where the noise is added.
        quantized: ``w_q``, shaped alike; the noise has the variance of ``w_q - w`` in each layer.
        draws: Of each law.
        generator: On the CPU.
        advance: Told about every batch; `passes` says how many there will be.
    """
    base, real = losses_at(task, weights, advance), losses_at(task, quantized, advance)
    deviations = {name: (quantized[name] - weight).std(correction=0) for name, weight in weights.items()}
    found: dict[str, dict[str, list[float]]] = {
        name: {part: [] for part in ("predicted", "hessian", "gaussian", "uniform")} for name in task.losses
    }
    for _ in range(draws):
        normal, uniform = (
            {name: deviations[name] * draw(weight, generator) for name, weight in weights.items()}
            for draw in (_normal, _uniform)
        )
        for name, (gauss_newton, hessian) in curvature(task, weights, normal, advance).items():
            found[name]["predicted"].append(gauss_newton)
            found[name]["hessian"].append(hessian)
        for law, noise in (("gaussian", normal), ("uniform", uniform)):
            for name, increase in _measured(task, weights, noise, base, advance).items():
                found[name][law].append(increase)
    return {
        name: LossIncrease(
            loss=float(base[name].mean()),
            quantization=mean_interval((real[name] - base[name]).tolist()),
            **{part: mean_interval(values) for part, values in parts.items()},
        )
        for name, parts in found.items()
    }


def passes(task: Task, draws: int) -> int:
    """Returns how many batches `loss_increases` works through."""
    return len(task.batches) * (2 + 5 * draws)


def _measured(
    task: Task, weights: Weights, noise: Weights, base: Mapping[str, Tensor], advance: Advance
) -> dict[str, float]:
    ends = [
        losses_at(task, {name: weight + sign * noise[name] for name, weight in weights.items()}, advance)
        for sign in (1.0, -1.0)
    ]
    return {name: float(((ends[0][name] + ends[1][name]) / 2 - loss).mean()) for name, loss in base.items()}


def _normal(weight: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(weight.shape, generator=generator).to(weight)


def _uniform(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Returns uniform numbers of variance 1."""
    return (torch.rand(weight.shape, generator=generator).to(weight) - 0.5) * math.sqrt(12)
