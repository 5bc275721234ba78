"""How optimizers must treat the quantizers' own parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from qreg_yolo.quant.base import Quantizer
from qreg_yolo.quant.functional import MIN_STEP
from qreg_yolo.quant.pact import PACTInputQuantizer

STEP_GROUP = "quant_step"
CLIP_GROUP = "quant_clip"


def quantizer_parameter_groups(
    model: nn.Module, *, weight_decay: float, clip_decay: float | None = None, **common: Any
) -> list[dict[str, Any]]:
    """Returns optimizer groups of the quantizers' parameters; every one is in exactly one group.

    LSQ's step sizes are not decayed. PACT's clipping values are, by L2 (arXiv 1805.06085, section 3): it is what
    shrinks them from their large start. Groups without parameters are left out.

    Args:
        model: A model with quantizers.
        weight_decay: The decay of the network's weights.
        clip_decay: The decay of the clipping values; None: ``weight_decay``.
        **common: Further keys of every group, such as ``lr`` and ``momentum``.
    """
    steps: list[nn.Parameter] = []
    clips: list[nn.Parameter] = []
    for quantizer in _quantizers(model):
        group = clips if isinstance(quantizer, PACTInputQuantizer) else steps
        group.extend(quantizer.parameters(recurse=False))
    groups = [
        {"params": steps, **common, "weight_decay": 0.0, "param_group": STEP_GROUP},
        {
            "params": clips,
            **common,
            "weight_decay": weight_decay if clip_decay is None else clip_decay,
            "param_group": CLIP_GROUP,
        },
    ]
    return [group for group in groups if group["params"]]


def split_quantizer_parameters(model: nn.Module, params: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Returns ``params`` without those that belong to quantizers."""
    own = {id(p) for quantizer in _quantizers(model) for p in quantizer.parameters(recurse=False)}
    return [p for p in params if id(p) not in own]


class StepSizeRule:
    """Hooks on an optimizer's step, for step sizes and clipping values.

    They stay at `MIN_STEP` or more. The forward already uses ``max(|s|, MIN_STEP)``; this keeps what is stored
    positive too, so that averaging it and reading it from a checkpoint need no rule.

    Under an adaptive optimizer (Adam's kind) the learning rate is relative: an update ``d`` becomes ``d * s``. Such an
    optimizer divides LSQ's gradient scale out and moves every parameter by about the learning rate, which is several
    times the step of an 8-bit weight; relative to the step it is a change of that many percent, whatever the width.

    Args:
        model: A model with quantizers.
        relative: `auto`: where the optimizer is adaptive; or always, or never.
    """

    def __init__(self, model: nn.Module, *, relative: str | bool = "auto") -> None:
        self._params: list[Tensor] = [p for q in _quantizers(model) for p in q.parameters(recurse=False)]
        self._relative = relative
        self._before: list[Tensor] = []

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Runs around every ``optimizer.step()`` from now on."""
        if not self._params:
            return
        if self._relative is True or (self._relative == "auto" and is_adaptive(optimizer)):
            optimizer.register_step_pre_hook(self._remember)
        optimizer.register_step_post_hook(self._finish)

    def _remember(self, *_: Any) -> None:
        self._before = [p.detach().clone() for p in self._params]

    def _finish(self, *_: Any) -> None:
        with torch.no_grad():
            if self._before:
                torch._foreach_sub_(self._params, self._before)
                torch._foreach_mul_(self._params, self._before)
                torch._foreach_add_(self._params, self._before)
            torch._foreach_abs_(self._params)
            torch._foreach_clamp_min_(self._params, MIN_STEP)


def is_adaptive(optimizer: torch.optim.Optimizer) -> bool:
    """Returns whether the optimizer divides gradients by their running size (Adam's kind, RMSprop)."""
    return any("betas" in group or "alpha" in group for group in optimizer.param_groups)


def _quantizers(model: nn.Module) -> list[Quantizer]:
    return [m for m in model.modules() if isinstance(m, Quantizer)]
