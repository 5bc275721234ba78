"""LSQ's equations (Esser et al., ICLR 2020, arXiv 1902.08153)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from qreg_yolo.quant.functional.common import (
    MIN_STEP,
    clip_,
    compute_dtype,
    keep_inside,
    positive,
    sum_to,
    with_signature,
)


def grid_bounds(bits: int, *, signed: bool) -> tuple[int, int]:
    """Returns ``(quant_min, quant_max)``, LSQ's ``(-Q_N, Q_P)`` (arXiv 1902.08153, section 2).

    One signed bit has the codes -1 and +1: LSQ's own ``Q_P = 2^(b-1) - 1`` would be 0 there.

    >>> grid_bounds(4, signed=True), grid_bounds(4, signed=False), grid_bounds(1, signed=True)
    ((-8, 7), (0, 15), (-1, 1))
    """
    if not signed:
        return 0, 2**bits - 1
    return (-1, 1) if bits == 1 else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _round_codes(clipped: Tensor, binary: bool) -> Tensor:
    """Rounds in place to integers; to the sign, with sign(0) = +1, on the two-level grid."""
    if binary:
        return torch.where(clipped >= 0, 1.0, -1.0).to(clipped.dtype)
    return clipped.round_()


def lsq_codes(v: Tensor, step_size: Tensor, *, quant_min: int, quant_max: int, binary: bool = False) -> Tensor:
    """Returns LSQ's integer codes ``round(clip(v / s, -Q_N, Q_P))`` as a float tensor of `compute_dtype`."""
    scaled = v.to(compute_dtype(v)) / positive(step_size, v)
    return _round_codes(clip_(scaled, quant_min, quant_max), binary)


def lsq_clipped(v: Tensor, step_size: Tensor, *, quant_min: int, quant_max: int) -> Tensor:
    """Returns a boolean mask of ``v / s`` outside ``[-Q_N, Q_P]``."""
    scaled = v.to(compute_dtype(v)) / positive(step_size, v)
    return (scaled < quant_min) | (scaled > quant_max)


def _local_gradient(scaled: Tensor, quant_min: int, quant_max: int, binary: bool) -> Tensor:
    """Returns the quantizer's derivative to the step at ``scaled = v / s``; may overwrite ``scaled``.

    Inside: round(v/s) - v/s. Outside: -Q_N or Q_P, the clipped value itself.
    """
    inside = keep_inside(scaled, scaled, quant_min, quant_max)
    clip = F.hardtanh if torch.is_grad_enabled() else clip_  # a double backward reads ``scaled``
    return _round_codes(clip(scaled, quant_min, quant_max), binary).sub_(inside)


def lsq_local_gradient(v: Tensor, step_size: Tensor, *, quant_min: int, quant_max: int, binary: bool = False) -> Tensor:
    """Returns `lsq_fake_quantize`'s gradient to the step value by value, in the shape of ``v`` and `compute_dtype`.

    Its product with the gradient to the quantized tensor, summed, is the step's gradient (arXiv 1902.08153, eq. 3)
    before the gradient scale. The arguments are those of `lsq_fake_quantize`.
    """
    step = positive(step_size, v)
    local = _local_gradient(v.to(step.dtype) / step, quant_min, quant_max, binary)
    return local * torch.where(step_size < 0, -1.0, 1.0)


@with_signature
class _LSQ(torch.autograd.Function):
    """Forward and both gradients of LSQ; saves the input and the step only."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        v: Tensor, step_size: Tensor, quant_min: int, quant_max: int, grad_scale: float, binary: bool
    ) -> Tensor:
        step = positive(step_size, v)
        scaled = v.to(step.dtype) / step
        return _round_codes(clip_(scaled, quant_min, quant_max), binary).mul_(step).to(v.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        v, step_size, ctx.quant_min, ctx.quant_max, ctx.grad_scale, ctx.binary = inputs
        ctx.save_for_backward(v, step_size)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        v, step_size = ctx.saved_tensors
        step = positive(step_size, v)
        grad = grad_outputs[0].to(step.dtype)
        scaled = v.to(step.dtype) / step
        grad_v = None
        if ctx.needs_input_grad[0]:
            grad_v = keep_inside(grad, scaled, ctx.quant_min, ctx.quant_max).to(v.dtype)
        local = _local_gradient(scaled, ctx.quant_min, ctx.quant_max, ctx.binary)
        # In place, but not where gradients are recorded: torch.func may batch ``grad`` alone.
        local = local * grad if torch.is_grad_enabled() else local.mul_(grad)
        grad_step = sum_to(local, step) * ctx.grad_scale
        grad_step = torch.where(step_size < 0, -grad_step, grad_step).to(step_size.dtype)
        return grad_v, grad_step, None, None, None, None


def lsq_fake_quantize(
    v: Tensor, step_size: Tensor, *, quant_min: int, quant_max: int, grad_scale: float = 1.0, binary: bool = False
) -> Tensor:
    """Returns ``round(clip(v / s, -Q_N, Q_P)) * s``, LSQ's quantizer (arXiv 1902.08153, eq. 1-2).

    Gradients (eq. 3 and 5): to ``v`` 1 inside the clipping range and 0 outside; to ``s``, times ``grad_scale``,
    ``round(v/s) - v/s`` inside, ``-Q_N`` below and ``Q_P`` above. The clip comes before the rounding, so a value in
    the half step beyond ``Q_P`` counts as clipped.

    Args:
        v: Float tensor of any shape.
        step_size: ``s``, a 0-D tensor or one that broadcasts against ``v`` (per channel). A value that is not
            positive acts as ``max(|s|, 1e-8)``, with the gradient's sign flipped for a negative one.
        quant_min: ``-Q_N``.
        quant_max: ``Q_P``.
        grad_scale: ``g`` of section 2.2, usually ``1 / sqrt(N * Q_P)`` (`lsq_grad_scale`).
        binary: Two codes, -1 and +1, by the sign (one signed bit).

    Deviates:
        At v/s equal to ``-Q_N`` or ``Q_P`` the value counts as inside (the closed interval of the paper's own
        pseudo-code, appendix B); eq. 3 has the open one.

    >>> s = torch.tensor(0.5)
    >>> lsq_fake_quantize(torch.tensor([0.2, 0.3, 9.0]), s, quant_min=-2, quant_max=1)
    tensor([0.0000, 0.5000, 0.5000])
    """
    result: Tensor = _LSQ.apply(v, step_size, quant_min, quant_max, grad_scale, binary)
    return result


def lsq_initial_step(v: Tensor, quant_max: int, *, axes: tuple[int, ...] | None = None, binary: bool = False) -> Tensor:
    """Returns ``2 <|v|> / sqrt(Q_P)``, LSQ's initial step (arXiv 1902.08153, section 2.1), at least `MIN_STEP`.

    Args:
        v: Float tensor.
        quant_max: ``Q_P``.
        axes: Axes of the mean; None: all of them (0-D result).
        binary: The two-level grid of one signed bit, where ``<|v|>`` is the best step.
    """
    magnitude = v.detach().to(compute_dtype(v)).abs()
    mean = magnitude.mean() if axes is None else magnitude.mean(axes)
    return (mean if binary else 2.0 * mean / math.sqrt(quant_max)).clamp_min(MIN_STEP)


def lsq_grad_scale(count: int, quant_max: int) -> float:
    """Returns ``g = 1 / sqrt(N * Q_P)`` (arXiv 1902.08153, section 2.2) for ``count`` values N sharing a step."""
    return 1.0 / math.sqrt(max(count, 1) * quant_max)
