"""Optimizer groups and learning rates of quantizer parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from qreg_yolo.quant.base import Quantizer
from qreg_yolo.quant.functional import MIN_STEP

STEP_GROUP = "quant_step"
CLIP_GROUP = "quant_clip"
OFFSET_GROUP = "quant_offset"


def quantizer_parameter_groups(
    model: nn.Module, *, weight_decay: float, clip_decay: float | None = None, lr_factor: float = 1.0, **common: Any
) -> list[dict[str, Any]]:
    """Returns optimizer groups that hold each quantizer parameter exactly once; empty groups are left out.

    LSQ's step sizes and LSQ+'s offsets are not decayed. PACT's clipping values are, by L2 (arXiv 1805.06085,
    section 3), which shrinks them from their large start.

    Args:
        model: A model with quantizers.
        weight_decay: The decay of the network's weights.
        clip_decay: The decay of the clipping values; None: ``weight_decay``.
        lr_factor: Factor of the learning rate, which each group names too.
        **common: Further keys of every group, such as ``lr`` and ``momentum``.
    """
    decays = {
        "step_size": (STEP_GROUP, 0.0),
        "clip_value": (CLIP_GROUP, weight_decay if clip_decay is None else clip_decay),
        "offset": (OFFSET_GROUP, 0.0),
    }
    params: dict[str, list[nn.Parameter]] = {name: [] for name in decays}
    for quantizer in _quantizers(model):
        for name, parameter in quantizer.named_parameters(recurse=False):
            params[name].append(parameter)
    if "lr" in common:
        common = {**common, "lr": common["lr"] * lr_factor}
    return [
        {"params": params[name], **common, "weight_decay": decay, "param_group": group, "lr_factor": lr_factor}
        for name, (group, decay) in decays.items()
        if params[name]
    ]


def split_quantizer_parameters(model: nn.Module, params: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Returns ``params`` without those of quantizers."""
    own = {id(p) for quantizer in _quantizers(model) for p in quantizer.parameters(recurse=False)}
    return [p for p in params if id(p) not in own]


class StepSizeRule:
    """Hooks on an optimizer's step, for step sizes, clipping values and offsets.

    Step sizes and clipping values stay at `MIN_STEP` or more. The forward uses ``max(|s|, MIN_STEP)`` anyway; positive
    stored values can also be averaged and read from checkpoints without a rule. Offsets may have any sign.

    With an adaptive optimizer (Adam's kind) the learning rate is relative: an update ``d`` becomes ``d * s``. Such an
    optimizer cancels LSQ's gradient scale and moves every parameter by about the learning rate, which is several times
    the step of an 8-bit weight. A relative update changes the step by the same percentage at any width. An offset also
    moves by ``d * s``, with the step ``s`` of its quantizer.

    Args:
        model: A model with quantizers.
        relative: True or False; `auto`: only with an adaptive optimizer.
    """

    def __init__(self, model: nn.Module, *, relative: str | bool = "auto") -> None:
        own = [dict(q.named_parameters(recurse=False)) for q in _quantizers(model)]
        self._scales: list[Tensor] = [p for params in own for name, p in params.items() if name != "offset"]
        shifted = [params for params in own if "offset" in params]
        self._params: list[Tensor] = [*self._scales, *(params["offset"] for params in shifted)]
        self._units: list[Tensor] = [*self._scales, *(params["step_size"] for params in shifted)]
        self._relative = relative
        self._before: list[Tensor] = []
        self._units_before: list[Tensor] = []

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Registers the hooks."""
        if not self._params:
            return
        if self._relative is True or (self._relative == "auto" and is_adaptive(optimizer)):
            optimizer.register_step_pre_hook(self._remember)
        optimizer.register_step_post_hook(self._finish)

    def _remember(self, *_: Any) -> None:
        self._before = [p.detach().clone() for p in self._params]
        self._units_before = [p.detach().clone() for p in self._units]

    def _finish(self, *_: Any) -> None:
        with torch.no_grad():
            if self._before:
                torch._foreach_sub_(self._params, self._before)
                torch._foreach_mul_(self._params, self._units_before)
                torch._foreach_add_(self._params, self._before)
            torch._foreach_abs_(self._scales)
            torch._foreach_clamp_min_(self._scales, MIN_STEP)


def is_adaptive(optimizer: torch.optim.Optimizer) -> bool:
    """Returns whether the optimizer divides gradients by their running magnitude (Adam's kind, RMSprop)."""
    return any("betas" in group or "alpha" in group for group in optimizer.param_groups)


def _quantizers(model: nn.Module) -> list[Quantizer]:
    return [m for m in model.modules() if isinstance(m, Quantizer)]
