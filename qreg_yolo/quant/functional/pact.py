"""PACT's equations (Choi et al., 2018, arXiv 1805.06085)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qreg_yolo.quant.functional.common import clip_, positive, with_signature


@with_signature
class _PACT(torch.autograd.Function):
    """Forward and both gradients of PACT; saves the input and the clipping value."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, clip_value: Tensor, levels: int) -> Tensor:
        clip = positive(clip_value, x)
        scaled = clip_(x.to(clip.dtype) / clip, 0, 1)
        return scaled.mul_(levels).round_().mul_(clip / levels).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, clip_value, _ = inputs
        ctx.save_for_backward(x, clip_value)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        x, clip_value = ctx.saved_tensors
        clip = positive(clip_value, x)
        grad = grad_outputs[0].to(clip.dtype)
        scaled = x.to(clip.dtype) / clip
        grad_x = torch.ops.aten.hardtanh_backward(grad, scaled, 0.0, 1.0)
        above = torch.where(scaled >= 1.0, grad, 0.0).sum()
        return grad_x.to(x.dtype), torch.where(clip_value < 0, -above, above).to(clip_value.dtype), None


def pact_fake_quantize(x: Tensor, clip_value: Tensor, *, bits: int) -> Tensor:
    """Returns ``round(y (2^k - 1) / a) a / (2^k - 1)`` of ``y = clip(x, 0, a)`` (PACT, arXiv 1805.06085, eq. 1-2).

    Gradients (eq. 3): to the clipping value 0 for ``x < a`` and 1 for ``x >= a``; to ``x`` 1 on ``(0, a)``, else 0.

    Args:
        x: Float tensor of any shape.
        clip_value: ``a`` (alpha), 0-D, in the unit of ``x``.
        bits: ``k``, 1 to 8.

    >>> pact_fake_quantize(torch.tensor([-1.0, 0.4, 7.0]), torch.tensor(3.0), bits=2)
    tensor([0., 0., 3.])
    """
    result: Tensor = _PACT.apply(x, clip_value, 2**bits - 1)
    return result


def pact_codes(x: Tensor, clip_value: Tensor, *, bits: int) -> Tensor:
    """Returns PACT's integer codes, 0 to 2^bits - 1, as a float tensor."""
    clip = positive(clip_value, x)
    return clip_(x.to(clip.dtype) / clip, 0, 1).mul_(2**bits - 1).round_()
