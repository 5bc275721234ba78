"""LSQ, learned step size quantization (Esser et al., ICLR 2020, arXiv 1902.08153)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor, nn

from qreg_yolo.quant.base import Quantizer
from qreg_yolo.quant.functional import (
    MIN_STEP,
    compute_dtype,
    grid_bounds,
    lsq_clipped,
    lsq_codes,
    lsq_fake_quantize,
    lsq_grad_scale,
    lsq_initial_step,
    lsq_plus_initial_step,
    positive,
)
from qreg_yolo.quant.functional.initial import initial_step
from qreg_yolo.quant.sample import InputSample
from qreg_yolo.quant.spec import QuantizerSpec


@final
class LSQWeightQuantizer(Quantizer):
    """LSQ of a weight: ``round(clip(w / s, -Q_N, Q_P)) * s`` with a learned ``s``, one or one per output channel.

    ``g = 1 / sqrt(N * Q_P)`` with N the number of weights that share a step. LSQ+ (method `lsq+`) is the same with
    another initial step.
    """

    def __init__(self, spec: QuantizerSpec, *, channels: int | None = None) -> None:
        super().__init__(spec, channels=channels)
        shape = () if self.channels is None else (self.channels,)
        self.step_size = nn.Parameter(torch.ones(shape))

    @property
    def learns_range(self) -> bool:
        return True

    def calibrate(self, x: Tensor) -> None:
        """Sets the initial step, one or one per output channel.

        The paper's is LSQ's or LSQ+'s; the mean magnitude at one bit.
        """
        if self.spec.init != "paper":
            rows = x.detach().reshape(self.channels or 1, -1)
            step = initial_step(
                rows, self.spec.init, quant_min=self.quant_min, quant_max=self.quant_max, binary=self.binary
            )
            self._start(step if self.channels is not None else step[0])
            return
        axes = None if self.channels is None else tuple(range(1, x.ndim))
        if self.spec.method == "lsq+" and self.bits > 1:
            step = lsq_plus_initial_step(x, self.bits, axes=axes)
        else:
            step = lsq_initial_step(x, self.quant_max, axes=axes, binary=self.binary)
        self._start(step)

    def _start(self, step: Tensor) -> None:
        with torch.no_grad():
            self.step_size.copy_(step)
        self.mark_initialized()

    def forward(self, x: Tensor) -> Tensor:
        self.require_initialized()
        count = x.numel() if self.channels is None else x.numel() // self.channels
        return lsq_fake_quantize(
            x,
            self._broadcast(x.ndim),
            quant_min=self.quant_min,
            quant_max=self.quant_max,
            grad_scale=lsq_grad_scale(count, self.quant_max),
            binary=self.binary,
        )

    def _codes(self, x: Tensor) -> Tensor:
        step = self._broadcast(x.ndim)
        return lsq_codes(x, step, quant_min=self.quant_min, quant_max=self.quant_max, binary=self.binary)

    def ideal(self, x: Tensor) -> Tensor:
        """Returns the output with infinitely fine levels and no clipping."""
        return x.detach()

    def on_grid(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns `ideal`, the output, and the step between neighbouring levels, which broadcasts against ``x``."""
        step = positive(self._broadcast(x.ndim).detach(), x)
        return x.detach(), self(x).detach(), 2.0 * step if self.binary else step

    def clipped(self, x: Tensor) -> Tensor:
        step = self._broadcast(x.ndim).detach()
        return lsq_clipped(x.detach(), step, quant_min=self.quant_min, quant_max=self.quant_max)

    def _broadcast(self, ndim: int) -> Tensor:
        return self.step_size if self.channels is None else self.step_size.view(-1, *([1] * (ndim - 1)))


@dataclass
class _RangeTrial:
    """One candidate range (signed or not) of an input: running means over calibration batches."""

    step: float = 0.0
    squared_error: float = 0.0
    batches: int = 0

    def add(self, x: Tensor, bits: int, signed: bool) -> None:
        """Averages in the step and the mean squared error that LSQ's initialisation gives on ``x``."""
        quant_min, quant_max = grid_bounds(bits, signed=signed)
        binary = signed and bits == 1
        step = lsq_initial_step(x, quant_max, binary=binary)
        quantized = lsq_codes(x, step, quant_min=quant_min, quant_max=quant_max, binary=binary).mul_(step)
        error = quantized.sub_(x).square_().mean()
        self.batches += 1
        self.step += (float(step) - self.step) / self.batches
        self.squared_error += (float(error) - self.squared_error) / self.batches


def input_grad_scale(quantizer: Quantizer, x: Tensor) -> float:
    """Returns ``g``, the factor of the gradients to the range of an input quantizer."""
    per_sample = quantizer.spec.grad_scale == "sample" and x.ndim > 1
    return lsq_grad_scale(x.shape[1:].numel() if per_sample else x.numel(), quantizer.quant_max)


@final
class LSQInputQuantizer(Quantizer):
    """LSQ of a layer's input with one learned step; signed or unsigned, by request or by calibration error.

    ``g = 1 / sqrt(N * Q_P)`` with N the features of one sample, so that the step's learning rate does not depend on
    the batch (``grad_scale="batch"`` counts the batch too).
    """

    is_signed: Tensor

    def __init__(self, spec: QuantizerSpec) -> None:
        super().__init__(spec)
        self.step_size = nn.Parameter(torch.ones(()))
        self.register_buffer("is_signed", torch.tensor(bool(spec.signed)))
        self._trials: dict[bool, _RangeTrial] = {}
        self._sample: InputSample | None = None

    @property
    def learns_range(self) -> bool:
        return True

    def calibrate(self, x: Tensor) -> None:
        """Averages ``2 <|x|> / sqrt(Q_P)`` over the batches (section 2.1 has one batch), or keeps a sample of ``x``."""
        if self.spec.init != "paper":
            self._sample = self._sample or InputSample()
            self._sample.add(x)
            return
        x = x.detach().to(compute_dtype(x))
        candidates = (False, True) if self.spec.signed is None else (self.spec.signed,)
        for signed in candidates:
            self._trials.setdefault(signed, _RangeTrial()).add(x, self.bits, signed)

    def finish_calibration(self) -> None:
        """Sets the signedness, unless it is given, and the step.

        By the paper's start: the signedness with the lower mean squared error. Otherwise: signed where an input is
        negative. The squared error would prefer the finer unsigned grid to the shallow negative lobe of SiLU, whose
        loss shifts every output.
        """
        if self.spec.init != "paper":
            self._start_from_sample()
            return
        self.require_data(seen=bool(self._trials), finite=all(math.isfinite(t.step) for t in self._trials.values()))
        signed = min(self._trials, key=lambda s: self._trials[s].squared_error)
        self._start(signed, max(self._trials[signed].step, MIN_STEP))

    def _start_from_sample(self) -> None:
        sample = self.observed(self._sample)
        signed = self.spec.signed if self.spec.signed is not None else sample.has_negative
        quant_min, quant_max = grid_bounds(self.bits, signed=signed)
        binary = signed and self.bits == 1
        step = initial_step(
            sample.values(self.spec.init)[None], self.spec.init, quant_min=quant_min, quant_max=quant_max, binary=binary
        )
        self._start(signed, float(step))

    def _start(self, signed: bool, step: float) -> None:
        self.spec = replace(self.spec, signed=signed)
        with torch.no_grad():
            self.is_signed.fill_(signed)
            self.step_size.fill_(step)
        self._trials, self._sample = {}, None
        self.mark_initialized()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Loads the signedness with the step, which means nothing on the other grid."""
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if not self.is_initialized:
            return
        signed = bool(self.is_signed)
        if self.spec.signed is not None and self.spec.signed != signed:
            error_msgs: list[str] = args[-1]
            names = {True: "signed", False: "unsigned"}
            error_msgs.append(
                f"{prefix}step_size was trained on the {names[signed]} grid, this quantizer is "
                f"{names[self.spec.signed]}; build it with signed='{names[signed]}' or 'auto'."
            )
            return
        self.spec = replace(self.spec, signed=signed)

    def forward(self, x: Tensor) -> Tensor:
        self.require_initialized()
        return lsq_fake_quantize(
            x,
            self.step_size,
            quant_min=self.quant_min,
            quant_max=self.quant_max,
            grad_scale=input_grad_scale(self, x),
            binary=self.binary,
        )

    def _codes(self, x: Tensor) -> Tensor:
        return lsq_codes(x, self.step_size, quant_min=self.quant_min, quant_max=self.quant_max, binary=self.binary)

    def clipped(self, x: Tensor) -> Tensor:
        return lsq_clipped(x.detach(), self.step_size.detach(), quant_min=self.quant_min, quant_max=self.quant_max)
