"""Checks for infinite or NaN losses and gradients, and the search for their origin."""

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


def norm_is_finite(model: nn.Module, losses: Iterable[Tensor] = ()) -> bool:
    """Returns whether the losses and the norm of all gradients are finite, with a single transfer from the device.

    True means that every number is finite. False does not mean the opposite: the norm can overflow float32 although
    every gradient is finite.
    """
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())
    return bool(torch.isfinite(sum(losses, start=norm)).all())


def diagnosis(
    model: nn.Module, losses: Iterable[Tensor], images: Tensor, forward: Callable[[Tensor], object] | None = None
) -> str | None:
    """Returns a text on the first loss or gradient that is not finite and its origin; None if all are finite.

    Args:
        model: The model as of the computation of the loss; it runs once more, without gradients.
        losses: The parts of the loss.
        images: The preprocessed batch.
        forward: Runs the model, such as ``model.forward`` of a compiled model; None: ``model(images)``.
    """
    if not all_finite(losses):
        return f"the loss is not finite. It begins at {first_nonfinite(model, images, forward)}"
    for name, parameter in reversed(list(model.named_parameters())):  # gradients come from the end of the network
        if parameter.grad is not None and not all_finite([parameter.grad]):
            return f"the loss is finite, but not the gradient of '{name}'"
    return None


def first_nonfinite(model: nn.Module, images: Tensor, forward: Callable[[Tensor], object] | None = None) -> str:
    """Returns the first value that is not finite: the images, a parameter, a layer's output, or the loss."""
    if not all_finite([images]):
        return "the images of the batch"
    for name, parameter in model.named_parameters():
        if not all_finite([parameter]):
            return f"the parameter '{name}'"
    found: list[str] = []
    with torch.no_grad(), _watch(model, found):
        (forward or model)(images)
    return found[0] if found else "the loss itself (every layer's output is finite)"


@contextlib.contextmanager
def _watch(model: nn.Module, found: list[str]) -> Iterator[None]:
    """Collects the leaf layers whose output is not finite, in the order of execution."""

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
