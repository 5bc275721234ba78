"""Initialises every quantizer of a model from its weights and a few batches."""

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
from qreg_yolo.quant.layers import QuantConv2d, QuantLinear


def uninitialized_quantizers(model: nn.Module) -> list[str]:
    """Returns the full names of the quantizers that cannot run yet."""
    return [name for name, m in model.named_modules() if isinstance(m, Quantizer) and not m.is_initialized]


UNREACHED: tuple[str, ...] = ("float", "error")
"""Choices for a layer that no calibration batch reaches."""
_UNCALLED = "no calibration batch called it: its weight is read directly, or it runs in training alone"
_EMPTY = "calibration batches gave it empty inputs only"


@dataclass(frozen=True)
class CalibrationReport:
    """What `calibrate` did."""

    initialized: int = 0
    """Quantizers that got their range."""
    unreached: dict[str, str] = field(default_factory=dict)
    """Layers that were converted back to full precision, by full name, with the reason."""

    def __str__(self) -> str:
        """Returns a line, and one per layer that was converted back."""
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
    """Initialises the quantizers that are not initialised yet, in place; returns what it did.

    Weight quantizers take their range from the weights. Input quantizers watch the float network on ``batches``
    (nothing is quantized meanwhile), with BatchNorm on batch statistics, so that an untrained network gets sensible
    ranges too; BatchNorm's buffers and every module's mode are restored.

    A layer that none of the batches reaches is converted back to full precision, with the same Parameter objects: its
    quantizers would never run, as in torchvision's Swin Transformer, whose attention reads ``qkv.weight``. Layers whose
    ranges were learned before stay as they are. So call this before an optimizer is built, and give in one call batches
    that use all layers. Without batches nothing is known about which layers run, and nothing is converted.

    Args:
        model: A model that `quantize_model` has been through.
        batches: What ``forward`` takes, by default one input tensor each. Not touched where every layer has learned
            its ranges.
        forward: Runs the model on one batch; default ``model(batch)``.
        unreached: ``float`` converts the layers that no batch reaches back, ``error`` raises.
        frozen: Full names of BatchNorm layers that training will leave in eval mode: they use their running statistics
            here too, or the ranges would be those of inputs that training never sees.

    Raises:
        RuntimeError: A quantizer is left without a range: no batches, or values that are not finite; or a layer that no
            batch reached, where that is an error.
        ValueError: ``unreached`` is something else.
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


def _has_learned(layer: QuantConv2d | QuantLinear) -> bool:
    """Returns whether a layer learns ranges and has all of them."""
    quantizers = (layer.weight_fake_quant, layer.input_fake_quant)
    learning = [quantizer for quantizer in quantizers if quantizer is not None and quantizer.learns_range]
    return bool(learning) and all(quantizer.is_initialized for quantizer in learning)


def _needs_data(quantizer: Quantizer | None) -> bool:
    return quantizer is not None and not quantizer.is_initialized


def _initialize(name: str, layer: QuantConv2d | QuantLinear) -> None:
    weight, act = layer.weight_fake_quant, layer.input_fake_quant
    if weight is not None and not weight.is_initialized:
        weight.calibrate(layer.weight.detach())
    if act is not None and not act.is_initialized:
        try:
            act.finish_calibration()
        except RuntimeError as error:
            raise CalibrationError(f"Layer '{name}': {error}") from None


class _Watcher(nn.Module):
    """Takes an input quantizer's place in calibration: notes that its layer runs, and passes the input on.

    A forward hook would miss a layer whose ``forward`` is called by name, and inputs given by keyword.
    """

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
    waiting: Mapping[str, QuantConv2d | QuantLinear],
    batches: Iterable[Any],
    forward: Callable[[nn.Module, Any], object],
    frozen: Collection[str],
) -> dict[str, str]:
    """Shows the inputs of the waiting layers to their quantizers; returns the layers that were not reached, and why.

    Raises:
        RuntimeError: There is no batch, and an input quantizer that needs one.
    """
    hungry = {layer.input_fake_quant for layer in waiting.values() if _needs_data(layer.input_fake_quant)}
    watchers: dict[QuantConv2d | QuantLinear, _Watcher] = {}
    for layer in waiting.values():  # a layer under several names comes once for each
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
    """Runs the model in full precision inside the block: the quantized layers hold no quantizer meanwhile."""
    held = [(layer, layer.weight_fake_quant, layer.input_fake_quant) for layer in quantized_layers(model).values()]
    try:
        for layer, _, _ in held:
            layer.weight_fake_quant = None
            layer.input_fake_quant = None
        yield
    finally:
        for layer, weight, act in held:
            layer.weight_fake_quant = weight
            layer.input_fake_quant = act


@contextmanager
def batch_statistics(model: nn.Module, frozen: Collection[str] = ()) -> Iterator[None]:
    """Runs BatchNorm on batch statistics inside the block (all else in eval mode); restores modes and buffers.

    Args:
        model: The network.
        frozen: Full names of BatchNorm layers that stay in eval mode.
    """
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
