"""The Jacobian of a network's outputs with respect to its weights: squared norms, and derivatives along a direction.

The network is a function of the weights of some layers, in eval mode, so that every sample has an output of its own.
Everything goes through `torch.func`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from qreg_yolo.quant.base import Quantizer
from qreg_yolo.quant.layers import QuantLayer

Weights = Mapping[str, Tensor]
"""Full name of a layer -> its weight."""
Outputs = Callable[[Weights, Tensor], Tensor]
"""Takes weights and inputs `(b, ...)`, returns the outputs `(b, n)`; samples do not influence each other."""

EXACT_OUTPUTS = 32
"""Up to so many outputs the Jacobian is computed whole; beyond, its norm is estimated."""
PROBES = 8
"""Random directions of an estimated norm, per sample."""
_BUDGET = 2**26
"""Numbers that the gradients of one pass may take together (256 MiB in float32)."""


def jvp(function: Callable[..., Any], at: tuple[Tensor, ...], ways: tuple[Tensor, ...]) -> tuple[Any, Any]:
    """Returns a function's value and its derivative along ``ways``: `torch.func.jvp`, without torch's own warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.script`", FutureWarning)  # the first call compiles a few rules
        value, slope = torch.func.jvp(function, at, ways)[:2]
    return value, slope


class StraightThrough(nn.Module):
    """An input quantizer made of operations that have derivatives of every order and in both modes.

    Its value is the quantizer's; its derivative is 1 within the clipping range and 0 outside (straight-through).
    """

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.active = quantizer.active

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            value, inside = self.quantizer(x.detach()), ~self.quantizer.clipped(x.detach())
        return torch.add(value, inside.to(x.dtype) * (x - x.detach()))


@contextmanager
def weights_exposed(model: nn.Module) -> Iterator[None]:
    """Runs the model, inside the block, on the weights it is given: in eval mode, without weight quantizers.

    Input quantizers stay, straight-through; parameters get no gradients. Everything is as it was afterwards.
    """
    modes = {module: module.training for module in model.modules()}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    layers = [module for module in model.modules() if isinstance(module, QuantLayer)]
    replaced = [(layer, layer.weight_fake_quant, layer.input_fake_quant) for layer in layers]
    try:
        model.eval().requires_grad_(False)
        for layer, _, act in replaced:
            layer.register_module("weight_fake_quant", None)
            layer.register_module("input_fake_quant", None if act is None else StraightThrough(act))
        yield
    finally:
        for layer, weight, act in replaced:
            layer.register_module("weight_fake_quant", weight)
            layer.register_module("input_fake_quant", act)
        for module, mode in modes.items():
            module.training = mode
        for parameter in trainable:
            parameter.requires_grad_(True)


def outputs_of(model: nn.Module, flatten: Callable[[object], Tensor] | None = None) -> Outputs:
    """Returns a model as a function of its layers' weights, for use inside `weights_exposed`.

    Args:
        model: Any module.
        flatten: Makes `(b, n)` of what the model returns; None: it returns a tensor, whose further axes are joined.
    """

    def outputs(weights: Weights, x: Tensor) -> Tensor:
        given = {f"{name}.weight": weight for name, weight in weights.items()}
        # Not tied: of a module under two names torch would put the given weight back instead of its own.
        found = functional_call(model, given, (x,), tie_weights=False)
        joined: Tensor = found.flatten(1) if flatten is None else flatten(found)
        return joined

    return outputs


def squared_norms(outputs: Outputs, weights: Weights, x: Tensor, generator: torch.Generator) -> Tensor:
    """Returns ``||dy_i / dw_l||_F^2`` of every sample i and layer l, `(b, layers)`.

    Exact for at most `EXACT_OUTPUTS` outputs. Beyond, Hutchinson's estimate: the mean of ``||J^T u||^2`` over `PROBES`
    vectors u of independent signs, which is unbiased (Hutchinson 1990).

    Args:
        outputs: The network.
        weights: Where the derivative is taken.
        x: `(b, ...)`.
        generator: On the CPU; the signs are drawn from it.
    """
    with torch.no_grad():
        y = outputs(weights, x[:1])
    n, size = y.shape[1], sum(weight.numel() for weight in weights.values())
    exact = n <= EXACT_OUTPUTS
    count = n if exact else PROBES
    inner = max(min(count, _BUDGET // max(size, 1)), 1)
    outer = max(_BUDGET // max(size * inner, 1), 1)

    def of_sample(sample: Tensor, cotangents: Tensor) -> Tensor:
        pull = vjp(lambda w: outputs(w, sample[None])[0], dict(weights))[1]

        def of_cotangent(u: Tensor) -> Tensor:
            (gradients,) = pull(u)
            return torch.stack([gradient.square().sum() for gradient in gradients.values()])

        squares: Tensor = vmap(of_cotangent, chunk_size=inner)(cotangents)
        return squares.sum(0) if exact else squares.mean(0)

    if exact:
        unit = torch.eye(n, dtype=y.dtype, device=y.device)
        found: Tensor = vmap(of_sample, in_dims=(0, None), chunk_size=outer)(x, unit)
        return found.detach()
    signs = torch.randint(0, 2, (len(x), count, n), generator=generator).to(y) * 2 - 1
    found = vmap(of_sample, chunk_size=outer)(x, signs)
    return found.detach()


def along(outputs: Outputs, weights: Weights, x: Tensor, direction: Weights) -> tuple[Tensor, Tensor, Tensor]:
    """Returns ``y(w + t d)`` at t = 0 with its first and second derivative to t, each `(b, n)`.

    Args:
        outputs: The network.
        weights: ``w``.
        x: `(b, ...)`.
        direction: ``d``, shaped as the weights.
    """
    first = next(iter(weights.values()))
    zero, one = first.new_zeros(()), first.new_ones(())

    def moved(t: Tensor) -> Tensor:
        return outputs({name: weight + t * direction[name] for name, weight in weights.items()}, x)

    def slope(t: Tensor) -> tuple[Tensor, Tensor]:
        return jvp(moved, (t,), (one,))

    (y, dy), (_, d2y) = jvp(slope, (zero,), (one,))
    return y.detach(), dy.detach(), d2y.detach()


def second_derivative(function: Callable[[Tensor], Tensor], y: Tensor, direction: Tensor) -> Tensor:
    """Returns ``d^T H d`` of a function's Hessian H at ``y``, in the shape of the function's value."""
    zero, one = y.new_zeros(()), y.new_ones(())

    def slope(t: Tensor) -> Tensor:
        found: Tensor = jvp(lambda s: function(y + s * direction), (t,), (one,))[1]
        return found

    curvature: Tensor = jvp(slope, (zero,), (one,))[1]
    return curvature.detach()


def first_derivative(function: Callable[[Tensor], Tensor], y: Tensor, direction: Tensor) -> Tensor:
    """Returns ``g^T d`` of a function's gradient g at ``y``, in the shape of the function's value."""
    slope: Tensor = jvp(function, (y,), (direction,))[1]
    return slope.detach()
