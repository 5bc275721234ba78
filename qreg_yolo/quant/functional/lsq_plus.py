"""LSQ+'s equations (Bhalgat et al., 2020, arXiv 2004.09576)."""

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

_CLIPS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
"""Starts of the search for the initial range, in standard deviations about the mean; the full range is one too."""
_MAX_FITS = 50
"""Straight-line fits from one start."""
_MIN_GAIN = 1e-4
"""Relative gain of a fit below which the search stops."""


def _range_of(x: Tensor, step_size: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Returns ``s`` and ``beta`` in the dtype that ``x`` is quantized in."""
    step = positive(step_size, x)
    # `where` batches the offset with the step under `torch.func.vmap`, so that what follows may work in place.
    return step, torch.where(step > 0, offset.to(step.dtype), 0.0)


def _scaled(x: Tensor, step: Tensor, shift: Tensor) -> Tensor:
    """Returns ``(x - beta) / s``."""
    return x.to(step.dtype).sub(shift).div_(step)


def zero_point(step_size: Tensor, offset: Tensor, *, quant_min: int, quant_max: int) -> Tensor:
    """Returns the code of 0, ``z = round(-beta / s)`` clamped to ``[n, p]``, as a float tensor."""
    return _zero_point(step_size, offset, quant_min, quant_max)[0]


def _zero_point(step_size: Tensor, offset: Tensor, quant_min: int, quant_max: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns `zero_point`, ``-beta / s``, and 1 where the zero point moves with it (0 where it is clamped)."""
    step, shift = _range_of(step_size, step_size, offset)
    exact = -shift / step
    rounded = exact.round()
    clamped = rounded.clamp(quant_min, quant_max)
    return clamped, exact, torch.where(clamped == rounded, 1.0, 0.0).to(step.dtype)


def lsq_plus_codes(
    x: Tensor, step_size: Tensor, offset: Tensor, *, quant_min: int, quant_max: int, integer: bool = False
) -> Tensor:
    """Returns LSQ+'s integer codes as a float tensor of `compute_dtype`.

    ``round(clip((x - beta) / s, n, p))``; with an integer zero point ``clip(round(x / s) + z, n, p)``, as ONNX's
    QuantizeLinear computes them.
    """
    step, shift = _range_of(x, step_size, offset)
    if not integer:
        return clip_(_scaled(x, step, shift), quant_min, quant_max).round_()
    z = zero_point(step_size, offset, quant_min=quant_min, quant_max=quant_max).to(step.dtype)
    return clip_((x.to(step.dtype) / step).round_().add_(z), quant_min, quant_max)


def lsq_plus_clipped(
    x: Tensor, step_size: Tensor, offset: Tensor, *, quant_min: int, quant_max: int, integer: bool = False
) -> Tensor:
    """Returns a boolean mask of ``(x - beta) / s`` (``x / s + z`` with an integer zero point) outside ``[n, p]``."""
    step, shift = _range_of(x, step_size, offset)
    if integer:
        z = zero_point(step_size, offset, quant_min=quant_min, quant_max=quant_max).to(step.dtype)
        scaled = (x.to(step.dtype) / step).add_(z)
    else:
        scaled = _scaled(x, step, shift)
    return (scaled < quant_min) | (scaled > quant_max)


@with_signature
class _LSQPlus(torch.autograd.Function):
    """Forward and the three gradients of LSQ+; saves the input, the step and the offset."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, step_size: Tensor, offset: Tensor, quant_min: int, quant_max: int, grad_scale: float
    ) -> Tensor:
        step, shift = _range_of(x, step_size, offset)
        codes = clip_(_scaled(x, step, shift), quant_min, quant_max).round_()
        return codes.mul_(step).add_(shift).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, step_size, offset, ctx.quant_min, ctx.quant_max, ctx.grad_scale = inputs
        ctx.save_for_backward(x, step_size, offset)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        x, step_size, offset = ctx.saved_tensors
        step, shift = _range_of(x, step_size, offset)
        grad = grad_outputs[0].to(step.dtype)
        # In place, but not where gradients are recorded: a double backward reads the operands, and torch.func may
        # batch ``grad`` alone.
        recorded = torch.is_grad_enabled()
        scaled = (x.to(step.dtype) - shift) / step if recorded else _scaled(x, step, shift)
        inside = keep_inside(scaled, scaled, ctx.quant_min, ctx.quant_max)
        grad_x = keep_inside(grad, scaled, ctx.quant_min, ctx.quant_max)
        # Inside: round(v) - v with v = (x - beta) / s. Outside: n or p, the clipped value itself.
        local = (F.hardtanh if recorded else clip_)(scaled, ctx.quant_min, ctx.quant_max).round_().sub_(inside)
        local = local * grad if recorded else local.mul_(grad)
        grad_step = sum_to(local, step_size) * ctx.grad_scale
        grad_step = torch.where(step_size < 0, -grad_step, grad_step).to(step_size.dtype)
        # The output moves with the offset where it does not move with the input.
        outside = grad - grad_x if recorded else inside.copy_(grad).sub_(grad_x)
        grad_offset = (sum_to(outside, offset) * ctx.grad_scale).to(offset.dtype)
        return grad_x.to(x.dtype), grad_step, grad_offset, None, None, None


@with_signature
class _IntegerLSQPlus(_LSQPlus):
    """The same with an integer zero point."""

    @staticmethod
    def forward(
        x: Tensor, step_size: Tensor, offset: Tensor, quant_min: int, quant_max: int, grad_scale: float
    ) -> Tensor:
        step = positive(step_size, x)
        z = zero_point(step_size, offset, quant_min=quant_min, quant_max=quant_max).to(step.dtype)
        codes = clip_((x.to(step.dtype) / step).round_().add_(z), quant_min, quant_max)
        return codes.sub_(z).mul_(step).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        x, step_size, offset = ctx.saved_tensors
        step = positive(step_size, x)
        z, exact, free = _zero_point(step_size, offset, ctx.quant_min, ctx.quant_max)
        grad = grad_outputs[0].to(step.dtype)
        recorded = torch.is_grad_enabled()  # as in `_LSQPlus`
        scaled = x.to(step.dtype) / step
        shifted = scaled + z
        grad_x = keep_inside(grad, shifted, ctx.quant_min, ctx.quant_max)
        inside = keep_inside(scaled, shifted, ctx.quant_min, ctx.quant_max)
        # Inside: round(x / s) - x / s. Outside: n - z or p - z, the clipped value itself.
        codes = scaled.round() + z if recorded else scaled.round_().add_(z)
        local = (F.hardtanh if recorded else clip_)(codes, ctx.quant_min, ctx.quant_max) - z - inside
        outside = sum_to(grad - grad_x, offset)  # there the output moves with the zero point, not with the input
        grad_step = (sum_to(local * grad, step_size) + outside * free * exact) * ctx.grad_scale
        grad_step = torch.where(step_size < 0, -grad_step, grad_step).to(step_size.dtype)
        grad_offset = (outside * free * ctx.grad_scale).to(offset.dtype)
        return grad_x.to(x.dtype), grad_step, grad_offset, None, None, None


def lsq_plus_fake_quantize(
    x: Tensor,
    step_size: Tensor,
    offset: Tensor,
    *,
    quant_min: int,
    quant_max: int,
    grad_scale: float = 1.0,
    integer: bool = False,
) -> Tensor:
    """Returns ``round(clip((x - beta) / s, n, p)) * s + beta``, LSQ+'s quantizer (arXiv 2004.09576).

    Gradients, with ``v = (x - beta) / s``: to ``x`` 1 inside the clipping range and 0 outside; to ``s``, times
    ``grad_scale``, ``round(v) - v`` inside, ``n`` below and ``p`` above; to ``beta``, times ``grad_scale``, 0 inside
    and 1 outside. The clip comes before the rounding, so a value in the half step beyond ``p`` counts as clipped.

    With an integer zero point ``z = round(-beta / s)``, clamped to ``[n, p]``, the output is
    ``s (clip(round(x / s) + z, n, p) - z)``, and 0 is on the grid. The gradient passes the rounding of ``z`` unchanged
    (straight-through): with ``v = x / s + z`` that to ``s`` is ``round(x / s) - x / s`` inside, ``n - z - beta / s``
    below and ``p - z - beta / s`` above. A clamped ``z`` does not move: there is no gradient to ``beta`` then, and no
    ``-beta / s`` in that to ``s``.

    Args:
        x: Float tensor of any shape.
        step_size: ``s``, a 0-D tensor or one that broadcasts against ``x``. A value that is not positive acts as
            ``max(|s|, 1e-8)``, with the gradient's sign flipped for a negative one.
        offset: ``beta``, as ``s``; in the unit of ``x``, of any sign.
        quant_min: ``n``.
        quant_max: ``p``.
        grad_scale: Factor of the gradients to ``s`` and ``beta`` (`lsq_grad_scale`).
        integer: Whether the zero point is an integer; the paper's is not.

    Deviates:
        At v equal to ``n`` or ``p`` the value counts as inside, as in `lsq_fake_quantize`.

    >>> x, s, beta = torch.tensor([-9.0, 0.2, 0.4, 9.0]), torch.tensor(0.5), torch.tensor(-0.25)
    >>> lsq_plus_fake_quantize(x, s, beta, quant_min=0, quant_max=3)
    tensor([-0.2500,  0.2500,  0.2500,  1.2500])
    """
    function = _IntegerLSQPlus if integer else _LSQPlus
    result: Tensor = function.apply(x, step_size, offset, quant_min, quant_max, grad_scale)
    return result


def lsq_plus_local_gradients(
    x: Tensor, step_size: Tensor, offset: Tensor, *, quant_min: int, quant_max: int, integer: bool = False
) -> tuple[Tensor, Tensor]:
    """Returns `lsq_plus_fake_quantize`'s gradients to the step and to the offset, value by value, shaped as ``x``.

    Before the gradient scale, as `lsq_local_gradient`.
    """
    step, shift = _range_of(x, step_size, offset)
    if integer:
        z, exact, free = _zero_point(step_size, offset, quant_min, quant_max)
        scaled = x.to(step.dtype) / step
        shifted = scaled + z
        outside = 1.0 - keep_inside(torch.ones_like(shifted), shifted, quant_min, quant_max)
        codes = F.hardtanh(scaled.round() + z, quant_min, quant_max) - z
        to_offset = outside * free
        to_step = codes - keep_inside(scaled, shifted, quant_min, quant_max) + to_offset * exact
    else:
        scaled = (x.to(step.dtype) - shift) / step
        rounded = F.hardtanh(scaled, quant_min, quant_max).round()
        to_step = rounded - keep_inside(scaled, scaled, quant_min, quant_max)
        to_offset = 1.0 - keep_inside(torch.ones_like(scaled), scaled, quant_min, quant_max)
    return torch.where(step_size < 0, -to_step, to_step), to_offset


def lsq_plus_initial_step(w: Tensor, bits: int, *, axes: tuple[int, ...] | None = None) -> Tensor:
    """Returns ``max(|mu - 3 sigma|, |mu + 3 sigma|) / 2^(b-1)``, LSQ+'s initial step of weights, at least `MIN_STEP`.

    Args:
        w: Weights; ``mu`` and ``sigma`` are their mean and (population) standard deviation.
        bits: ``b``, 2 to 8.
        axes: Axes of mean and deviation; None: all of them (0-D result).
    """
    w = w.detach().to(compute_dtype(w))
    axes = tuple(range(w.ndim)) if axes is None else axes
    std, mean = torch.std_mean(w, axes, correction=0)
    reach = mean.abs() + 3.0 * std  # the larger of the two magnitudes
    return (reach / 2.0 ** (bits - 1)).clamp_min(MIN_STEP)


def lsq_plus_initial_range(x: Tensor, *, quant_min: int, quant_max: int) -> tuple[Tensor, Tensor]:
    """Returns ``s`` and ``beta`` (0-D) with a low squared error ``||x_hat - x||^2``, LSQ+'s start for activations.

    Each round takes the codes of ``x``, then fits the line ``s * code + beta`` to ``x``; the error never rises. The
    search runs twice: from the full range, ``s = (max - min) / (p - n)`` and ``beta = min - n s``, and from the best of
    a few ranges clipped about the mean. The better result is returned, so the error never exceeds the full range's.

    Args:
        x: Finite values, at least one.
        quant_min: ``n``.
        quant_max: ``p``.

    Deviates:
        The paper asks for the minimum and leaves the search open; this one ends in a local minimum.
    """
    x = x.detach().to(compute_dtype(x)).flatten()
    low, high = x.aminmax()
    std, mean = torch.std_mean(x, correction=0)
    reach = std * torch.tensor(_CLIPS, dtype=x.dtype, device=x.device)
    lows = torch.cat([low[None], torch.maximum(mean - reach, low)])
    highs = torch.cat([high[None], torch.minimum(mean + reach, high)])
    steps = ((highs - lows) / (quant_max - quant_min)).clamp_min(MIN_STEP)
    offsets = lows - quant_min * steps
    codes = lsq_plus_codes(x, steps[:, None], offsets[:, None], quant_min=quant_min, quant_max=quant_max)
    errors = codes.mul_(steps[:, None]).add_(offsets[:, None]).sub_(x).square_().mean(1)
    starts = (0, 1 + int(errors[1:].argmin()))
    fits = [_fit(x, steps[start], offsets[start], quant_min, quant_max) for start in starts]
    _, step, offset = min(fits, key=lambda fit: fit[0])
    return step, offset


def _fit(x: Tensor, step: Tensor, offset: Tensor, quant_min: int, quant_max: int) -> tuple[float, Tensor, Tensor]:
    """Returns squared error, step and offset at the end of the search; ``x`` is 1-D."""
    mean = x.mean()
    centred, best = x - mean, (math.inf, step, offset)
    for _ in range(_MAX_FITS):
        codes = lsq_plus_codes(x, step, offset, quant_min=quant_min, quant_max=quant_max)
        residual = (codes * step).add_(offset).sub_(x)
        error = float(residual.dot(residual))
        if not error < best[0] * (1.0 - _MIN_GAIN):  # also where all codes are equal, which gives nan
            break
        best = (error, step, offset)
        middle = codes.mean()
        codes.sub_(middle)
        step = codes.dot(centred) / codes.dot(codes)
        offset = mean - step * middle
    return best
