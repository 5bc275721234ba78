"""Calibration: the initial ranges of all quantizers, from the weights and a few batches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from qreg_yolo.errors import CalibrationError, InvalidValueError
from qreg_yolo.quant.base import Quantizer
from qreg_yolo.quant.convert import dequantize_model, quantized_layers
from qreg_yolo.quant.layers import QuantLayer


def uninitialized_quantizers(model: nn.Module) -> list[str]:
    """Returns the full names of the quantizers that cannot run yet."""
    return [name for name, m in model.named_modules() if isinstance(m, Quantizer) and not m.is_initialized]


UNREACHED: tuple[str, ...] = ("float", "error")
"""Choices for the layers that no calibration batch reaches."""
_UNCALLED = "no calibration batch called it: its weight is read directly, or it runs in training alone"
_EMPTY = "calibration batches gave it empty inputs only"


@dataclass(frozen=True)
class CalibrationReport:
    """Result of `calibrate`."""

    initialized: int = 0
    """Number of quantizers that got their range."""
    unreached: dict[str, str] = field(default_factory=dict)
    """Full name -> reason, for each layer that was converted back to full precision."""

    def __str__(self) -> str:
        """Returns a summary line and one line per layer that was converted back."""
        lines = [f"{self.initialized} quantizers calibrated"]
        return "\n".join(lines + [f"  {name}: left in full precision, {why}" for name, why in self.unreached.items()])


def calibrate(
    model: nn.Module,
    batches: Iterable[Any] = (),
    *,
    forward: Callable[[nn.Module, Any], object] | None = None,
    unreached: Literal["float", "error"] = "float",
    frozen: Collection[str] = (),
) -> CalibrationReport:
    """Initialises all quantizers without a range, in place; returns a report.

    Weight quantizers take their range from the weights, input quantizers from the inputs in the float network on
    ``batches``. BatchNorm uses batch statistics meanwhile, so that an untrained network gets sensible ranges too;
    its buffers and every module's mode are restored.

    A layer that no batch reaches is converted back to full precision, with the same Parameter objects: its quantizers
    would never run. An example is the attention of torchvision's Swin Transformer, which reads ``qkv.weight`` directly.
    Layers that already have ranges stay unchanged, and without batches no layer is converted. So call this once, before
    an optimizer is built, with batches that use all layers.

    Args:
        model: A model that was passed to `quantize_model`.
        batches: Arguments of ``forward``; by default one input tensor each. Not read if every layer has ranges.
        forward: Runs the model on one batch; default ``model(batch)``.
        unreached: What to do with layers that no batch reaches: ``float`` converts them back, ``error`` raises.
        frozen: Full names of BatchNorm layers that training will keep in eval mode. They use their running statistics
            here too; otherwise the ranges would fit inputs that training never sees.

    Raises:
        RuntimeError: A quantizer without a range: no batches, values that are not finite, or an unreached layer with
            ``unreached="error"``.
        ValueError: Another value of ``unreached``.
    """
    if unreached not in UNREACHED:
        raise InvalidValueError(f"unreached={unreached!r} is not one of: {', '.join(UNREACHED)}.")
    missing = [m for m in model.modules() if isinstance(m, Quantizer) and not m.is_initialized]
    waiting = {name: layer for name, layer in quantized_layers(model).items() if not _has_learned(layer)}
    run = forward or (lambda module, batch: module(batch))
    left = _watch_inputs(model, waiting, batches, run, frozen) if waiting else {}
    if left and unreached == "error":
        name, reason = next(iter(left.items()))
        raise CalibrationError(
            f"{len(left)} quantized layers are reached by no calibration batch, the first is '{name}': {reason}. "
            "Exclude them, calibrate with a forward that uses them, or leave them in float with unreached='float'."
        )
    dequantize_model(model, left)
    for name, layer in waiting.items():
        if name not in left:
            _initialize(name, layer)
    without = uninitialized_quantizers(model)
    if without:
        raise CalibrationError(
            f"{len(without)} quantizers have no range after calibration, the first is '{without[0]}'."
        )
    return CalibrationReport(sum(quantizer.is_initialized for quantizer in missing), left)


def _has_learned(layer: QuantLayer) -> bool:
    """Returns whether a layer learns ranges and has all of them."""
    quantizers = (layer.weight_fake_quant, layer.input_fake_quant)
    learning = [quantizer for quantizer in quantizers if quantizer is not None and quantizer.learns_range]
    return bool(learning) and all(quantizer.is_initialized for quantizer in learning)


def _needs_data(quantizer: Quantizer | None) -> bool:
    return quantizer is not None and not quantizer.is_initialized


def _initialize(name: str, layer: QuantLayer) -> None:
    weight, act = layer.weight_fake_quant, layer.input_fake_quant
    if weight is not None and not weight.is_initialized:
        weight.calibrate(layer.weight.detach())
    if act is not None and not act.is_initialized:
        try:
            act.finish_calibration()
        except RuntimeError as error:
            raise CalibrationError(f"Layer '{name}': {error}") from None


class _Watcher(nn.Module):
    """Stand-in for an input quantizer during calibration: records that its layer runs, and returns the input.

    A forward hook would miss a layer whose ``forward`` is called by name, and inputs given by keyword.
    """

    active = True
    """As of a quantizer."""

    def __init__(self, observe: Callable[[Tensor], None] | None) -> None:
        super().__init__()
        self.observe = observe
        self.called = False
        self.fed = observe is None

    def forward(self, x: Tensor) -> Tensor:
        self.called = True
        if self.observe is not None and x.numel():
            self.observe(x)
            self.fed = True
        return x


def _watch_inputs(
    model: nn.Module,
    waiting: Mapping[str, QuantLayer],
    batches: Iterable[Any],
    forward: Callable[[nn.Module, Any], object],
    frozen: Collection[str],
) -> dict[str, str]:
    """Shows their inputs to the quantizers of the waiting layers; returns the layers not reached, with the reason."""
    hungry = {layer.input_fake_quant for layer in waiting.values() if _needs_data(layer.input_fake_quant)}
    watchers: dict[QuantLayer, _Watcher] = {}
    for layer in waiting.values():  # a layer with several names occurs once per name
        quantizer = layer.input_fake_quant
        observe = quantizer.calibrate if quantizer is not None and quantizer in hungry else None
        watchers.setdefault(layer, _Watcher(observe))
    count = 0
    with torch.no_grad(), batch_statistics(model, frozen), quantizers_off(model):
        for layer, watcher in watchers.items():
            layer.register_module("input_fake_quant", watcher)
        for batch in batches:
            forward(model, batch)
            count += 1
    if count == 0 and hungry:
        raise CalibrationError(
            f"{len(hungry)} input quantizers need data, but no calibration batch was given. "
            "Pass at least one batch to calibrate(model, batches)."
        )
    reasons = {layer: _EMPTY if watcher.called else _UNCALLED for layer, watcher in watchers.items()}
    reached = {layer for layer, watcher in watchers.items() if watcher.called and watcher.fed}
    return {name: reasons[layer] for name, layer in waiting.items() if count and layer not in reached}


@contextmanager
def quantizers_off(model: nn.Module) -> Iterator[None]:
    """Removes all quantizers inside the block: the model runs in full precision."""
    removed = [(layer, layer.weight_fake_quant, layer.input_fake_quant) for layer in quantized_layers(model).values()]
    try:
        for layer, _, _ in removed:
            layer.weight_fake_quant = None
            layer.input_fake_quant = None
        yield
    finally:
        for layer, weight, act in removed:
            layer.weight_fake_quant = weight
            layer.input_fake_quant = act


@contextmanager
def batch_statistics(model: nn.Module, frozen: Collection[str] = ()) -> Iterator[None]:
    """Runs BatchNorm on batch statistics inside the block, except ``frozen``; then restores modes and buffers."""
    norms = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and name not in frozen
    ]
    modes = {m: m.training for m in model.modules()}
    saved = [{name: b.clone() for name, b in m.named_buffers(recurse=False)} for m in norms]
    try:
        model.eval()
        for norm in norms:
            norm.train()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for norm, buffers in zip(norms, saved, strict=True):
                for name, value in buffers.items():
                    norm.get_buffer(name).copy_(value)
