"""The rise of a loss under noise on the weights: its two second-order terms, and the measured rise.

Noise ``d`` of mean 0 and variance ``sigma_l^2`` in layer l moves the outputs, ``y(w + d) = y + J d + ...``, and raises
the loss on average, to second order (docs/theory.md), by::

    1/2 E[(J d)^T H (J d)]     spread: H is the Hessian of the loss to the outputs (the Gauss-Newton form)
    g^T E[y(w + d) - y]        shift: g is the gradient of the loss to the outputs

With the squared error ``||y - target||^2`` the first is ``sum_l sigma_l^2 ||dy/dw_l||_F^2``: theorem 3.1 of QReg
(arXiv 2206.12372), corrected. The paper drops the second, which is of the same order: ``1/2 g^T E[d^T (d2y/dw2) d]``
where y is smooth, and the effect of its kinks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor

from qreg_yolo.noise.intervals import Interval, finite, mean_interval
from qreg_yolo.noise.jacobian import Outputs, Weights, along, first_derivative, second_derivative

Loss = Callable[[Tensor, Any], Tensor]
"""Takes outputs `(b, n)` and their target, returns the losses of the batch's units `(u,)`: samples, or the batch."""
Advance = Callable[[int], object]
"""Callback; its argument is the number of further finished batches."""


@dataclass(frozen=True)
class Task:
    """A network as a function of its weights, with its batches and losses."""

    outputs: Outputs
    batches: Sequence[tuple[Tensor, Any]]
    """Inputs `(b, ...)` and target; the whole sample."""
    losses: Mapping[str, Loss]
    """Name -> loss."""


@dataclass(frozen=True, kw_only=True)
class LossIncrease:
    """The rise of a loss by noise of each layer's variance; all intervals but the last are over the draws."""

    predicted: Interval
    """The spread under Gaussian noise: the theorem's penalty."""
    hessian: Interval
    """The term that the theorem drops, by the second derivative of the network: 0 on average for ReLU and no more."""
    shift: Interval
    """The same term as it is for noise of this size: the average shift of the outputs, kinks included."""
    gaussian: Interval
    """Measured under Gaussian noise."""
    remainder: Interval
    """The rest of it after `predicted` and `shift`: higher orders."""
    uniform: Interval
    """Measured under uniform noise."""
    quantization: Interval
    """Measured under the quantization error itself; the interval is over the units of the sample."""
    loss: float
    """Mean over the sample, without noise."""

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: value.to_dict() if isinstance(value, Interval) else finite(value) for name, value in values.items()
        }


def loss_increases(
    task: Task,
    weights: Weights,
    quantized: Weights,
    *,
    draws: int,
    generator: torch.Generator,
    advance: Advance = lambda count: None,
) -> dict[str, LossIncrease]:
    """Measures the effect of noise on every loss of a task.

    Each draw is used with both signs, which takes the odd orders out: ``(L(w + d) + L(w - d)) / 2 - L(w)``. The terms
    of second order are taken along the same Gaussian draws.

    Args:
        task: The network, the sample and the losses.
        weights: ``w``, where the noise is added.
        quantized: ``w_q``, shaped alike; the noise has the variance of ``w_q - w`` in each layer.
        draws: Per distribution.
        generator: On the CPU.
        advance: Told about every batch; `passes` says how many there will be.
    """
    before, after = outputs_at(task, weights, advance), outputs_at(task, quantized, advance)
    base, real = losses_of(task, before), losses_of(task, after)
    deviations = {name: (quantized[name] - weight).std(correction=0) for name, weight in weights.items()}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in task.losses}
    for _ in range(draws):
        normal, uniform = (
            {name: deviations[name] * draw(weight, generator) for name, weight in weights.items()}
            for draw in (_normal, _uniform)
        )
        spreads = second_order(task, weights, normal, advance)
        rises, others = (rises_along(task, weights, noise, before, advance) for noise in (normal, uniform))
        for name in task.losses:
            (predicted, hessian), (gaussian, shift) = spreads[name], rises[name]
            remainder = gaussian - predicted - shift
            found[name].append(
                {
                    "predicted": predicted, "hessian": hessian, "shift": shift, "gaussian": gaussian,
                    "remainder": remainder, "uniform": others[name][0],
                }
            )  # fmt: skip
    return {
        name: LossIncrease(
            loss=float(base[name].mean()),
            quantization=mean_interval((real[name] - base[name]).tolist()),
            **{part: mean_interval([one[part] for one in each]) for part in each[0]},
        )
        for name, each in found.items()
    }


def passes(task: Task, draws: int) -> int:
    """Returns the number of batches of `loss_increases`."""
    return len(task.batches) * (2 + 3 * draws)


@torch.no_grad()
def outputs_at(task: Task, weights: Weights, advance: Advance) -> list[Tensor]:
    """Returns the outputs of every batch, `(b, n)`."""
    found = []
    for x, _ in task.batches:
        found.append(task.outputs(weights, x))
        advance(1)
    return found


@torch.no_grad()
def losses_of(task: Task, outputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """Returns the losses of all units of the sample, float64 `(units,)`, by name, from the outputs of every batch."""
    pairs = [(y, target) for y, (_, target) in zip(outputs, task.batches, strict=True)]
    return {name: torch.cat([loss(*pair).double().cpu() for pair in pairs]) for name, loss in task.losses.items()}


def second_order(task: Task, weights: Weights, noise: Weights, advance: Advance) -> dict[str, tuple[float, float]]:
    """Returns spread and second derivative of the outputs of one draw by loss, as means over the units.

    ``1/2 (J d)^T H (J d)`` and ``1/2 g^T (d^T (d2y/dw2) d)``.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in task.losses}
    for x, target in task.batches:
        y, dy, d2y = along(task.outputs, weights, x, noise)
        for name, loss in task.losses.items():
            of_outputs = partial(_with_target, loss, target)
            parts = second_derivative(of_outputs, y, dy), first_derivative(of_outputs, y, d2y)
            found[name].append(torch.stack(parts).double().cpu() / 2)
        advance(1)
    return _means(found)


def rises_along(
    task: Task, weights: Weights, noise: Weights, outputs: Sequence[Tensor], advance: Advance
) -> dict[str, tuple[float, float]]:
    """Returns the rise of every loss under one draw with both signs, and its shift, as means over the units.

    ``(L(w + d) + L(w - d)) / 2 - L(w)`` and ``g^T ((y(w + d) + y(w - d)) / 2 - y)``; ``outputs`` are ``y``.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in task.losses}
    ends = [{name: weight + sign * noise[name] for name, weight in weights.items()} for sign in (1.0, -1.0)]
    for y, (x, target) in zip(outputs, task.batches, strict=True):
        with torch.no_grad():
            up, down = (task.outputs(end, x) for end in ends)
        for name, loss in task.losses.items():
            with torch.no_grad():
                rise = (loss(up, target).double() + loss(down, target)) / 2 - loss(y, target)
            shift = first_derivative(partial(_with_target, loss, target), y, (up + down) / 2 - y)
            found[name].append(torch.stack([rise, shift.double()]).cpu())
        advance(1)
    return _means(found)


def _means(found: Mapping[str, Sequence[Tensor]]) -> dict[str, tuple[float, float]]:
    """Returns the means of `(2, units)` parts over all units, by name."""
    means = {name: torch.cat(list(parts), 1).mean(1).tolist() for name, parts in found.items()}
    return {name: (first, second) for name, (first, second) in means.items()}


def _with_target(loss: Loss, target: Any, y: Tensor) -> Tensor:
    return loss(y, target)


def _normal(weight: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(weight.shape, generator=generator).to(weight)


def _uniform(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Returns uniform numbers of variance 1."""
    return (torch.rand(weight.shape, generator=generator).to(weight) - 0.5) * math.sqrt(12)
