"""DoReFa-Net's equations (Zhou et al., 2016, arXiv 1606.06160)."""

from __future__ import annotations

import torch
from torch import Tensor

from qreg_yolo.quant.functional.common import MIN_STEP, compute_dtype, round_ste


def dorefa_quantize_activation(x: Tensor, *, bits: int) -> Tensor:
    """Returns ``quantize_k(clip(x, 0, 1))`` with ``quantize_k(r) = round((2^k - 1) r) / (2^k - 1)``.

    DoReFa, arXiv 1606.06160, eq. 5 and section 2.4. The gradient is 1 on [0, 1] and 0 outside.

    >>> dorefa_quantize_activation(torch.tensor([-1.0, 0.4, 7.0]), bits=2)
    tensor([0.0000, 0.3333, 1.0000])
    """
    levels = 2**bits - 1
    wide = x.to(compute_dtype(x))
    # Not `clamp`: whether its gradient at 0 and 1 is 1 or 0 depends on the version of torch.
    clipped = torch.where((wide < 0.0) | (wide > 1.0), wide.detach().clamp(0.0, 1.0), wide)
    unit: Tensor = round_ste(clipped * levels) / levels
    return unit.to(x.dtype)


def dorefa_quantize_weight(
    w: Tensor, *, bits: int, per_channel: bool = False, max_grad: bool = False, rescale: bool = False
) -> Tensor:
    """Returns DoReFa's quantized weights (arXiv 1606.06160, section 2.3).

    k > 1 (eq. 9): ``2 quantize_k(tanh(w) / (2 max|tanh(w)|) + 1/2) - 1``, which spans [-1, 1] whatever ``w`` is.
    k = 1 (eq. 7): ``sign(w) E|w|`` with ``sign(0) = +1``, E without gradient. Gradients by the straight-through
    estimator: ``(1 - tanh(w)^2) / max|tanh(w)|`` for k > 1, 1 for k = 1.

    Args:
        w: `(c_out, ...)`.
        bits: ``k``, 1 to 8.
        per_channel: Maximum and mean per output channel.
        max_grad: Let the gradient flow through the maximum too (the authors' code does).
        rescale: Multiply by ``std(w) / std(result)``, without gradient, so that a network that was not built around
            weights in [-1, 1] keeps its scale. For k = 1 the E|w| already does that.

    Deviates:
        ``max_grad=False`` (a constant maximum) is the default; ``rescale`` and ``per_channel`` are not in the paper.
    """
    axes = tuple(range(1, w.ndim)) if per_channel else tuple(range(w.ndim))
    w_wide = w.to(compute_dtype(w))
    if bits == 1:
        mean = w_wide.detach().abs().mean(axes, keepdim=True)
        sign = torch.where(w_wide.detach() >= 0, 1.0, -1.0).to(mean.dtype)
        return _replace_value(w_wide, sign * mean).to(w.dtype)
    levels = 2**bits - 1
    tanh, maximum = _dorefa_tanh(w_wide, axes, max_grad)
    unit: Tensor = 2.0 * (round_ste((tanh / (2.0 * maximum) + 0.5) * levels) / levels) - 1.0
    if rescale:
        unit = unit * _std_ratio(w_wide.detach(), unit.detach(), axes)
    return unit.to(w.dtype)


def dorefa_ideal_weight(w: Tensor, *, bits: int, per_channel: bool = False, rescale: bool = False) -> Tensor:
    """Returns the weight before rounding, as `compute_dtype`: `dorefa_quantize_weight` with infinitely many levels.

    k > 1: ``tanh(w) / max|tanh(w)|``, spanning [-1, 1]; k = 1: ``w``. Without gradient.

    Args:
        w: `(c_out, ...)`.
        bits: ``k``, 1 to 8.
        per_channel: Maximum per output channel.
        rescale: Multiply by ``std(w) / std(result)``.
    """
    w = w.detach().to(compute_dtype(w))
    if bits == 1:
        return w
    axes = tuple(range(1, w.ndim)) if per_channel else tuple(range(w.ndim))
    tanh, maximum = _dorefa_tanh(w, axes, max_grad=False)
    unit = tanh / maximum
    return unit * _std_ratio(w, unit, axes) if rescale else unit


def dorefa_weight_step(w: Tensor, *, bits: int, per_channel: bool = False) -> Tensor:
    """Returns the step between DoReFa's weight levels before rescaling, broadcasting against ``w``.

    ``2 / (2^k - 1)`` for k > 1; ``2 E|w|`` for k = 1.
    """
    w = w.detach().to(compute_dtype(w))
    if bits > 1:
        return torch.full((), 2.0 / (2**bits - 1), dtype=w.dtype, device=w.device)
    axes = tuple(range(1, w.ndim)) if per_channel else tuple(range(w.ndim))
    return 2.0 * w.abs().mean(axes, keepdim=True)


def _dorefa_tanh(w: Tensor, axes: tuple[int, ...], max_grad: bool) -> tuple[Tensor, Tensor]:
    """Returns ``tanh(w)`` and ``max|tanh(w)|`` over ``axes`` (kept, at least `MIN_STEP`)."""
    tanh = torch.tanh(w)
    maximum = tanh.abs().amax(axes, keepdim=True).clamp_min(MIN_STEP)
    return tanh, maximum if max_grad else maximum.detach()


def _replace_value(x: Tensor, value: Tensor) -> Tensor:
    """Returns ``value`` exactly, with the gradient of ``x`` (x - x is +0 exactly for finite numbers)."""
    return value.detach() + (x - x.detach())


def _std_ratio(w: Tensor, quantized: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Returns ``std(w) / std(quantized)`` over ``axes``; of root mean squares where a spread is 0 (few weights)."""
    std_w, std_q = (t.std(axes, correction=0, keepdim=True) for t in (w, quantized))
    rms_w, rms_q = (t.square().mean(axes, keepdim=True).sqrt() for t in (w, quantized))
    return torch.where((std_w > 0) & (std_q > 0), std_w / std_q, rms_w / rms_q)


def dorefa_weight_codes(w: Tensor, *, bits: int, per_channel: bool = False) -> Tensor:
    """Returns DoReFa's weight codes, 0 to 2^bits - 1 (0 and 1 for the signs), as a float tensor."""
    w = w.detach().to(compute_dtype(w))
    if bits == 1:
        return (w >= 0).to(w.dtype)
    axes = tuple(range(1, w.ndim)) if per_channel else tuple(range(w.ndim))
    tanh, maximum = _dorefa_tanh(w, axes, max_grad=False)
    return torch.round((tanh / (2.0 * maximum) + 0.5) * (2**bits - 1))


def dorefa_activation_codes(x: Tensor, *, bits: int) -> Tensor:
    """Returns DoReFa's activation codes, 0 to 2^bits - 1, as a float tensor."""
    return x.to(compute_dtype(x)).clamp(0.0, 1.0).mul(2**bits - 1).round()
