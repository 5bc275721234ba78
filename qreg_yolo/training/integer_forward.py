"""Compiled convolutions of quantized values, computed in integers where the CPU has the instructions.

Codes of at most 8 bits are whole numbers that fit a byte, and so are those of the weights: the convolution of both is a
sum of integers, exact in 32 bits, times the two steps. The forward alone is done so: gradients are not integers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch._inductor import ir, lowering
from torch._inductor.virtualized import V
from torch.nn import functional as F

aten, prims = torch.ops.aten, torch.ops.prims

_SCALE_OPERATIONS = (aten.abs.default, aten.clamp_min.default, aten.view.default, aten.reshape.default)
"""What lies between a learned step and the scale of its codes (`quant.functional.common.positive`)."""

_UINT8_MAX, _INT8_MIN, _INT8_MAX, _INT32_MAX = 2**8 - 1, -(2**7), 2**7 - 1, 2**31 - 1

_LIBRARY = torch.library.Library("qreg_yolo", "DEF")  # type: ignore[no-untyped-call]
_LIBRARY.define(  # type: ignore[no-untyped-call]
    "integer_conv2d(Tensor codes, int zero_point, Tensor weight, Tensor scale, Tensor? bias, "
    "int[] stride, int[] padding, int[] dilation, int groups) -> Tensor",
    tags=(torch.Tag.needs_exact_strides, torch.Tag.pt2_compliant_tag),
)


def is_fast() -> bool:
    """Returns whether this CPU multiplies bytes four at a time and adds them up in 32 bits (AVX-512 VNNI).

    oneDNN has 8-bit convolutions for other CPUs too; some of them saturate in 16 bits.
    """
    return bool(torch._C._has_mkldnn and torch.cpu._is_vnni_supported())


def use_integer_convolutions() -> bool:
    """Has Inductor compile the convolutions of this process in integers where it can; returns whether it will.

    It will not where `is_fast` says no, where this version of torch takes no lowering from users, or where somebody
    else's is already there.
    """
    lowerings = getattr(lowering, "user_lowerings", None)
    if lowerings is None or not is_fast():
        return False
    return lowerings.setdefault(aten.convolution.default, lower_convolution) is lower_convolution


def integer_conv2d(
    codes: Tensor,
    zero_point: int,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Returns ``scale * conv2d(codes - zero_point, weight) + bias`` in float32, channels last.

    The operator ``torch.ops.qreg_yolo.integer_conv2d``. A graph that was compiled for another CPU runs here too, with
    the convolution in float32.

    Args:
        codes: uint8, `(n, c_in, h, w)`.
        zero_point: The code that stands for 0, which is what padding holds.
        weight: int8, `(c_out, c_in / groups, k_h, k_w)`.
        scale: float32, `(1,)` or `(c_out,)`.
        bias: float32, `(c_out,)`, or None.
        stride: As in `torch.nn.functional.conv2d`, like the rest: two numbers each.
        padding: Two numbers.
        dilation: Two numbers.
        groups: The number of groups.
    """
    geometry = list(stride), list(padding), list(dilation), groups
    if not is_fast():
        sums = F.conv2d(codes.float() - zero_point, weight.float(), None, *geometry)
        offset = 0.0 if bias is None else bias.view(1, -1, 1, 1)
        return (sums * scale.view(1, -1, 1, 1) + offset).contiguous(memory_format=torch.channels_last)
    operators, no_zero_point = torch.ops.onednn, torch.zeros(1, dtype=torch.int32)
    packed = operators.qconv_prepack(weight, scale, 1.0, zero_point, *geometry, list(codes.shape))
    scaled = codes, 1.0, zero_point, packed, scale, no_zero_point, bias
    nothing_fused: tuple[str, list[float], str] = "none", [], ""
    result: Tensor = operators.qconv2d_pointwise(*scaled, *geometry, 1.0, 0, torch.float32, *nothing_fused)
    return result


def _like_integer_conv2d(
    codes: Tensor, zero_point: int, weight: Tensor, scale: Tensor, bias: Tensor | None, *geometry: Any
) -> Tensor:
    """Returns an empty tensor of the result's shape and strides, for the compiler."""
    del zero_point, scale, bias
    return torch.empty_like(F.conv2d(codes.float(), weight.float(), None, *geometry), memory_format=torch.channels_last)


_LIBRARY.impl("integer_conv2d", integer_conv2d, "CPU")  # type: ignore[no-untyped-call]
_LIBRARY.impl("integer_conv2d", _like_integer_conv2d, "Meta")  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class _Codes:
    """A graph's ``round(clip(..., low, high)) * scale``."""

    scale: fx.Node
    low: int
    high: int

    @functools.cached_property
    def steps(self) -> int:
        """How many numbers the scale holds."""
        count: int = self.scale.meta["val"].numel()
        return count


def _codes_of(node: Any) -> _Codes | None:
    node = _argument(node, aten.alias.default) or node
    rounded, scale = _arguments(node, aten.mul.Tensor, 2)
    top, high = _arguments(_argument(rounded, aten.round.default), aten.clamp_max.default, 2)
    _, low = _arguments(top, aten.clamp_min.default, 2)
    whole = all(isinstance(bound, int | float) and bound % 1 == 0 for bound in (low, high))
    if not isinstance(scale, fx.Node) or not whole:
        return None
    return _Codes(scale, int(low), int(high))


def _arguments(node: Any, target: object, count: int) -> tuple[Any, ...]:
    """Returns the arguments of a call of ``target``, or as many times None."""
    if isinstance(node, fx.Node) and node.target is target and len(node.args) == count and not node.kwargs:
        return node.args
    return (None,) * count


def _argument(node: Any, target: object) -> Any:
    return _arguments(node, target, 1)[0]


def _fit(conv: fx.Node, x: _Codes, weight: _Codes) -> bool:
    """Returns whether the codes fit bytes, their products' sums 32 bits, and the scales one number a channel."""
    values = [argument.meta["val"] for argument in conv.args[:2] if isinstance(argument, fx.Node)]
    inputs, weights = values
    if any(v.dtype != torch.float32 or v.device.type != "cpu" or v.ndim != 4 for v in values):
        return False
    if not all(isinstance(size, int) for v in values for size in v.shape) or conv.args[6]:  # dynamic; transposed
        return False
    in_bytes = x.low <= 0 <= x.high - x.low <= _UINT8_MAX and _INT8_MIN <= weight.low <= weight.high <= _INT8_MAX
    in_sums = _UINT8_MAX * -_INT8_MIN * math.prod(weights.shape[1:]) <= _INT32_MAX
    return in_bytes and in_sums and x.steps == 1 and weight.steps in (1, weights.shape[0]) and inputs.numel() > 0


def lower_convolution(*arguments: Any) -> Any:
    """Inductor's lowering of ``aten.convolution``: `integer_conv2d` of codes; None, its own lowering, otherwise.

    The graph keeps its float convolution until here, because Inductor chooses memory formats by where it sees one. The
    values stay as well: the backward reads them.
    """
    node = V.graph.current_node
    x, weight = _codes_of(node.args[0]), _codes_of(node.args[1])
    if x is None or weight is None or not _fit(node, x, weight):
        return None
    step, weight_step = _lower_again(x.scale), _lower_again(weight.scale)
    if step is None or weight_step is None:
        return None
    values, weights, bias, stride, padding, dilation, _, _, groups = arguments
    to = lowering.lowerings
    codes = to[aten.round.default](to[aten.div.Tensor](values, step))
    if x.low:
        codes = to[aten.add.Tensor](codes, -x.low)
    weight_codes = to[aten.round.default](to[aten.div.Tensor](weights, weight_step))
    convert = to[prims.convert_element_type.default]
    operands = (
        ir.ExternKernel.require_channels_last(convert(codes, torch.uint8)),
        -x.low,
        ir.ExternKernel.require_contiguous(convert(weight_codes, torch.int8)),
        to[aten.view.default](to[aten.mul.Tensor](step, weight_step), [weight.steps]),
    )
    call: Any = lowering.fallback_handler(  # type: ignore[no-untyped-call]
        torch.ops.qreg_yolo.integer_conv2d.default, add_to_fallback_set=False
    )
    return call(*operands, bias, stride, padding, dilation, groups)


def _lower_again(node: Any) -> Any:
    """Returns a scale once more, from the graph's inputs: what was lowered for its first use is gone. None: it can't.

    A learned step is a parameter, of which a magnitude is taken: two or three operations on a number a channel.
    """
    if not isinstance(node, fx.Node):
        return node
    if node.op == "placeholder":
        return V.graph.graph_inputs[str(node.target)]
    if node.target not in _SCALE_OPERATIONS or node.kwargs:
        return None
    arguments = [_lower_again(argument) for argument in node.args]
    return None if arguments[0] is None else lowering.lowerings[node.target](*arguments)
