"""Operations that every method uses: dtypes, rounding with the straight-through gradient, positive scales."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

MIN_STEP = 1e-8
"""Floor of a step size or clipping value, in units of the tensor: above float32's subnormals, below any real scale."""


def compute_dtype(x: Tensor) -> torch.dtype:
    """Returns the dtype quantizers compute in: float64 for float64, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def with_signature(function: type[torch.autograd.Function]) -> type[torch.autograd.Function]:
    """Returns the class with the signature of its forward cached, which saves a third of a call's fixed cost."""
    function.forward.__signature__ = inspect.signature(function.forward)  # type: ignore[attr-defined]
    return function


@with_signature
class _RoundSTE(torch.autograd.Function):
    """Rounding with the straight-through gradient (identity)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        del ctx, inputs, output

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return grad_outputs[0]


def round_ste(x: Tensor) -> Tensor:
    """Returns ``x`` rounded half to even; its gradient is 1 (straight-through estimator, arXiv 1308.3432).

    >>> round_ste(torch.tensor([0.5, 1.5, -0.2]))
    tensor([0., 2., -0.])
    """
    result: Tensor = _RoundSTE.apply(x)
    return result


def clip_(x: Tensor, low: int, high: int) -> Tensor:
    """Clips in place; unlike ``clamp_`` with a batching rule for ``torch.func.vmap``."""
    return F.hardtanh_(x, low, high)


def beyond(bound: int, direction: float, dtype: torch.dtype) -> float:
    """Returns the next number beyond ``bound``: an open interval of such numbers contains the bounds themselves."""
    if bound == 0:  # not a subnormal number, which is 0 where denormals are flushed
        return math.copysign(torch.finfo(dtype).tiny, direction)
    distance = torch.finfo(dtype).eps * 2.0 ** (math.frexp(bound)[1] - 1)
    return bound + math.copysign(distance, direction)


def keep_inside(x: Tensor, scaled: Tensor, low: int, high: int) -> Tensor:
    """Returns ``x`` where ``scaled`` is in the closed interval ``[low, high]``, else 0."""
    # hardtanh_backward does this for the open interval, in one pass.
    bounds = beyond(low, -math.inf, scaled.dtype), beyond(high, math.inf, scaled.dtype)
    result: Tensor = torch.ops.aten.hardtanh_backward(x, scaled, *bounds)
    return result


def sum_to(x: Tensor, like: Tensor) -> Tensor:
    """Sums ``x`` over the axes along which ``like``, which broadcasts against ``x``, is constant."""
    return x.sum() if like.ndim == 0 else x.sum_to_size(like.shape)


def positive(step_size: Tensor, v: Tensor) -> Tensor:
    """Returns ``max(|s|, MIN_STEP)`` in the dtype that ``v`` is quantized in."""
    return step_size.to(compute_dtype(v)).abs().clamp_min(MIN_STEP)
