"""Initialises every quantizer of a model from its weights and a few batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from qreg_yolo.quant.base import Quantizer
from qreg_yolo.quant.convert import quantized_layers


def uninitialized_quantizers(model: nn.Module) -> list[str]:
    """Returns the full names of the quantizers that cannot run yet."""
    return [name for name, m in model.named_modules() if isinstance(m, Quantizer) and not m.is_initialized]


def calibrate(
    model: nn.Module, batches: Iterable[Any] = (), *, forward: Callable[[nn.Module, Any], object] | None = None
) -> int:
    """Initialises the quantizers that are not initialised yet; returns how many that were.

    Weight quantizers take their range from the weights. Input quantizers watch the float network on ``batches``
    (nothing is quantized meanwhile), with BatchNorm on batch statistics, so that an untrained network gets sensible
    ranges too; BatchNorm's buffers and every module's mode are restored.

    Args:
        model: A model that `quantize_model` has been through.
        batches: What ``forward`` takes, by default one input tensor each. Not touched where no input range is
            missing.
        forward: Runs the model on one batch; default ``model(batch)``.

    Raises:
        RuntimeError: A quantizer is left without a range: no batches, or a layer that no batch reached.
    """
    missing = len(uninitialized_quantizers(model))
    layers = quantized_layers(model)
    for layer in layers.values():
        quantizer = layer.weight_fake_quant
        if quantizer is not None and not quantizer.is_initialized:
            quantizer.calibrate(layer.weight.detach())
    waiting: dict[str, Quantizer] = {}
    for name, layer in layers.items():
        quantizer = layer.input_fake_quant
        # A layer under several names waits once.
        if quantizer is not None and not quantizer.is_initialized and quantizer not in waiting.values():
            waiting[name] = quantizer
    if waiting:
        _calibrate_inputs(model, waiting, batches, forward or (lambda module, batch: module(batch)))
    left = uninitialized_quantizers(model)
    if left:
        raise RuntimeError(f"{len(left)} quantizers have no range after calibration, the first is '{left[0]}'.")
    return missing


def _calibrate_inputs(
    model: nn.Module,
    waiting: dict[str, Quantizer],
    batches: Iterable[Any],
    forward: Callable[[nn.Module, Any], object],
) -> None:
    def watcher(quantizer: Quantizer) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: quantizer.calibrate(inputs[0])

    count = 0
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(batch_statistics(model))
        for name, quantizer in waiting.items():
            hook = model.get_submodule(name).register_forward_pre_hook(watcher(quantizer))
            stack.callback(hook.remove)
        stack.enter_context(quantizers_off(model))
        for batch in batches:
            forward(model, batch)
            count += 1
    if count == 0:
        raise RuntimeError(
            f"{len(waiting)} input quantizers need data, but no calibration batch was given. "
            "Pass at least one batch to calibrate(model, batches)."
        )
    for name, quantizer in waiting.items():
        try:
            quantizer.finish_calibration()
        except RuntimeError as error:
            raise RuntimeError(f"Layer '{name}': {error}") from None


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
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Runs BatchNorm on batch statistics inside the block (all else in eval mode); restores modes and buffers."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
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
