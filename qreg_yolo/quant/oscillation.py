"""Weights that oscillate between two codes: their history, and three ways to hold them.

With the straight-through gradient a latent weight near the threshold between two codes is pushed to and fro across it,
step after step. Freezing and dampening: Nagel et al., 2022, arXiv 2203.11086. Transition rates: arXiv 2404.19248.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qreg_yolo.quant.functional import lsq_codes, lsq_grad_scale, positive
from qreg_yolo.quant.functional.common import keep_inside, sum_to
from qreg_yolo.quant.layers import WeightQuantizer
from qreg_yolo.quant.lsq import LSQWeightQuantizer

MOMENTUM = 0.01
"""``m``: share of the latest step in every running mean."""
OSCILLATING = 0.005
"""A weight oscillates if its frequency is above this."""
NEAR = 0.05
"""A weight is near a threshold if its distance is below this share of the step between two levels."""


@dataclass
class CodeHistory:
    """Integer codes ``x_t`` of one weight from step to step; all tensors have the weight's shape.

    arXiv 2203.11086: ``d_t = sign(x_(t-1) - x_t)``; ``o_t = 1`` if ``d_t`` is the negative of the last ``d`` that is
    not 0, else 0; frequency ``f_t = m o_t + (1 - m) f_(t-1)``.
    """

    codes: Tensor
    """``x_t``, int16."""
    direction: Tensor
    """The last ``d`` that is not 0 (0: the code has never changed), int8."""
    frequency: Tensor
    """``f_t``, float32."""
    mean_codes: Tensor | None = None
    """Running mean of ``x_t`` with momentum ``m``, float32; None: the weight is never frozen."""
    frozen: Tensor | None = None
    """Whether the code is frozen; None as for `mean_codes`."""

    @classmethod
    def begin(cls, codes: Tensor, *, freezable: bool) -> CodeHistory:
        """Returns the history before the first step, at which nothing has changed."""
        return cls(
            codes=codes.to(torch.int16),
            direction=torch.zeros_like(codes, dtype=torch.int8),
            frequency=torch.zeros_like(codes, dtype=torch.float32),
            mean_codes=codes.float() if freezable else None,
            frozen=torch.zeros_like(codes, dtype=torch.bool) if freezable else None,
        )

    def update(self, codes: Tensor) -> Tensor:
        """Takes the codes after a step, in place, and returns which of them changed; frozen codes stay."""
        codes = codes.to(torch.int16)
        if self.frozen is not None:
            codes = torch.where(self.frozen, self.codes, codes)
        direction = torch.sign(self.codes - codes).to(torch.int8)
        changed = direction != 0
        self.frequency.lerp_((direction * self.direction == -1).float(), MOMENTUM)
        self.direction.copy_(torch.where(changed, direction, self.direction))
        self.codes.copy_(codes)
        if self.mean_codes is not None:
            self.mean_codes.lerp_(codes.float(), MOMENTUM)
        return changed

    def freeze(self, threshold: float, *, quant_min: int, quant_max: int, binary: bool = False) -> None:
        """Freezes each code whose frequency is above a threshold at the code nearest to its running mean.

        Iterative freezing (arXiv 2203.11086). The mean includes the present code. A frozen code is never released.

        Args:
            threshold: 0..1; one oscillation alone raises the frequency to ``m``.
            quant_min: Smallest code.
            quant_max: Largest code.
            binary: Whether the codes are -1 and +1 only.
        """
        assert self.mean_codes is not None
        assert self.frozen is not None
        new = (self.frequency > threshold) & ~self.frozen
        one = torch.ones((), device=self.codes.device)
        nearest = lsq_codes(self.mean_codes, one, quant_min=quant_min, quant_max=quant_max, binary=binary)
        self.codes.copy_(torch.where(new, nearest.to(torch.int16), self.codes))
        self.frozen |= new


def hold_frozen(weight: Tensor, quantizer: LSQWeightQuantizer, history: CodeHistory) -> None:
    """Sets frozen weights to their code times the quantizer's present step, in place: the level itself."""
    assert history.frozen is not None
    level = history.codes.to(weight.dtype) * _step(quantizer, weight).to(weight.dtype)
    weight.copy_(torch.where(history.frozen, level, weight))


def frozen_step_gradient(gradient: Tensor, quantizer: LSQWeightQuantizer, history: CodeHistory) -> Tensor:
    """Returns what frozen weights add to the gradient of the step, in the step's shape.

    A frozen weight is ``code * s``, so its derivative to ``s`` is the code; LSQ gives 0 for a weight on its level. The
    sum is multiplied by LSQ's gradient scale.

    Args:
        gradient: Gradient of the weight `(c_out, ...)`, by the straight-through estimator that of the quantized weight.
        quantizer: The weight's.
        history: The weight's.
    """
    assert history.frozen is not None
    step = _step(quantizer, gradient)
    local = torch.where(history.frozen, history.codes * gradient.to(step.dtype), 0.0)
    scale = lsq_grad_scale(gradient.numel() // step.numel(), quantizer.quant_max)
    return (sum_to(local, step) * scale).view_as(quantizer.step_size).to(quantizer.step_size.dtype)


def dampening_loss(weight: Tensor, quantizer: LSQWeightQuantizer) -> Tensor:
    """Returns ``sum (q(w) - clamp(w, s n, s p))^2``, the dampening loss before its factor (arXiv 2203.11086), 0-D.

    ``q(w)`` and ``s`` are constants: the gradient is `dampening_gradient` and reaches the weight alone.
    """
    step = _step(quantizer, weight)
    wide = weight.to(step.dtype)
    inside = torch.clamp(wide, step * quantizer.quant_min, step * quantizer.quant_max)
    return (_on_level(wide.detach(), quantizer, step) - inside).square().sum()


def dampening_gradient(weight: Tensor, quantizer: LSQWeightQuantizer) -> Tensor:
    """Returns ``2 (w - q(w))`` inside the clipping range and 0 outside, the gradient of `dampening_loss`.

    It pulls each weight to the middle between its thresholds.
    """
    step = _step(quantizer, weight)
    wide = weight.detach().to(step.dtype)
    gradient = 2.0 * (wide - _on_level(wide, quantizer, step))
    return keep_inside(gradient, wide / step, quantizer.quant_min, quantizer.quant_max).to(weight.dtype)


@torch.no_grad()
def near_threshold(weight: Tensor, quantizer: WeightQuantizer) -> Tensor:
    """Returns a boolean mask of the weights within `NEAR` of a threshold between two codes.

    For LSQ: ``|frac(w/s) - 0.5| < 0.05`` with ``w/s`` between the smallest and the largest code; beyond these there is
    no threshold. In general: the quantized quantity (`WeightQuantizer.on_grid`; for DoReFa ``tanh(w) / max|tanh(w)|``)
    is more than 0.45 steps from its level, on the inner side of the outermost levels.
    """
    ideal, quantized, step = quantizer.on_grid(weight)
    codes, distance = quantizer.to_int(weight), (ideal - quantized) / step
    beyond = ((codes == quantizer.quant_max) & (distance > 0)) | ((codes == quantizer.quant_min) & (distance < 0))
    return (distance.abs() > 0.5 - NEAR) & ~beyond


def cosine(start: float, end: float, progress: float) -> float:
    """Returns a value on the half cosine from ``start`` (``progress`` 0) to ``end`` (1).

    >>> [round(cosine(0.1, 0.01, p), 4) for p in (0, 0.5, 1)]
    [0.1, 0.055, 0.01]
    """
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


@dataclass
class TransitionRate:
    """Learning rate of latent weights from the share of codes that change per step (arXiv 2404.19248).

    ``K_t = 0.99 K_(t-1) + 0.01 k_t`` with ``k_t`` the share in step t; target ``R_t``, a cosine from
    ``lambda sqrt(b)`` to 0; ``U_t = max(0, U_(t-1) + eta (R_t - K_t))``. Here ``U`` and ``eta`` are multiples of the
    initial learning rate, and ``U`` starts at 1.
    """

    bits: int
    """``b``."""
    scale: float
    """``lambda``, 0 or more."""
    eta: float
    """Above 0."""
    rate: float = 0.0
    """``K_t``."""
    factor: float = 1.0
    """``U_t``."""

    def target(self, progress: float) -> float:
        """Returns ``R_t`` at a share of the training, 0..1."""
        return cosine(self.scale * math.sqrt(self.bits), 0.0, progress)

    def update(self, changed: float, progress: float) -> None:
        """Takes ``k_t``, the share of codes that changed in the step that ends at ``progress``."""
        self.rate = (1.0 - MOMENTUM) * self.rate + MOMENTUM * changed
        self.factor = max(0.0, self.factor + self.eta * (self.target(progress) - self.rate))


def _step(quantizer: LSQWeightQuantizer, weight: Tensor) -> Tensor:
    """Returns the step, without gradient, broadcasting against the weight `(c_out, ...)`."""
    step = positive(quantizer.step_size.detach(), weight)
    return step if step.ndim == 0 else step.view(-1, *([1] * (weight.ndim - 1)))


def _on_level(wide: Tensor, quantizer: LSQWeightQuantizer, step: Tensor) -> Tensor:
    """Returns the quantized weight in `compute_dtype`."""
    low, high = quantizer.quant_min, quantizer.quant_max
    return lsq_codes(wide, step, quant_min=low, quant_max=high, binary=quantizer.binary) * step
