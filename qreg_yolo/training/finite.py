"""Stops a run whose numbers have become infinite or NaN, before they reach a checkpoint, and names the layer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from qreg_yolo.errors import UserError


class NonFiniteError(UserError, ValueError):
    """A loss, a gradient or a weight that is infinite or not a number."""


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Returns whether every number of every tensor is finite."""
    return all(bool(torch.isfinite(t).all()) for t in tensors)


def gradients_are_finite(model: nn.Module) -> bool:
    """Returns whether the gradients' common norm is finite, and with it each of them."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return not gradients or all_finite([torch.nn.utils.get_total_norm(gradients)])


def where_it_begins(model: nn.Module, images: Tensor, forward: Callable[[Tensor], object] | None = None) -> str:
    """Returns what is not finite first: a parameter, a layer's output, else the loss or its gradient.

    Args:
        model: As it was when the loss or gradient was computed; it is run once more, without gradients.
        images: The preprocessed batch.
        forward: How it is run, for example ``model.forward`` where the model is compiled; None: ``model(images)``.
    """
    if not all_finite([images]):
        return "the images of the batch"
    for name, parameter in model.named_parameters():
        if not all_finite([parameter]):
            return f"the parameter '{name}'"
    found: list[str] = []
    with torch.no_grad(), _watch(model, found):
        (forward or model)(images)
    if found:
        return found[0]
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not all_finite([parameter.grad]):
            return f"the gradient of '{name}' (every layer's output is finite)"
    return "the loss itself (every layer's output is finite)"


@contextlib.contextmanager
def _watch(model: nn.Module, found: list[str]) -> Iterator[None]:
    """Notes the leaf layers whose output is not finite, in the order in which they run."""

    def hook(name: str, module: nn.Module, output: object) -> None:
        if isinstance(output, Tensor) and not all_finite([output]):
            found.append(f"the output of layer '{name}' ({type(module).__name__})")

    def attach(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        return module.register_forward_hook(lambda layer, _, output: hook(name, layer, output))

    leaves = {"weight_fake_quant", "input_fake_quant"}
    handles = [
        attach(name, module)
        for name, module in model.named_modules()
        if set(dict(module.named_children())) <= leaves  # a quantized layer counts with its quantizers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
