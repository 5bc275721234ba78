"""Convolutions in integers: the operator against float64, and compiled networks against the eager ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._functorch import config as functorch_config
from torch._inductor import config, lowering
from torch._inductor.utils import run_and_get_code
from torch.nn import functional as F

from qreg_yolo.quant import QuantSpec, calibrate, quantize_model
from qreg_yolo.training import integer_forward

operator = torch.ops.qreg_yolo.integer_conv2d.default
convolution = torch.ops.aten.convolution.default
channels_last = torch.channels_last

GEOMETRIES = [  # c_in, c_out, kernel, size, stride, padding, dilation, groups
    (3, 16, 6, 20, 2, 2, 1, 1),
    (16, 8, 1, 9, 1, 0, 1, 1),
    (8, 8, 3, 7, 1, 1, 1, 8),
    (8, 12, 3, 11, 2, 2, 2, 2),
    (16, 1, 1, 1, 1, 0, 1, 1),
    (4, 5, 3, 3, 1, 0, 1, 1),
]


def operands(geometry: tuple[int, ...], bits: int, zero_point: int, per_channel: bool, bias: bool) -> tuple[Any, ...]:
    """Codes of all values up to the largest, which would saturate in 16 bits, and the rest of the arguments."""
    c_in, c_out, kernel, size, stride, padding, dilation, groups = geometry
    torch.manual_seed(0)
    codes = torch.randint(0, 2**bits, (2, c_in, size, size), dtype=torch.uint8)
    codes[0] = 2**bits - 1
    half = 2 ** (bits - 1)
    weight = torch.randint(-half, half, (c_out, c_in // groups, kernel, kernel), dtype=torch.int8)
    weight[0] = -half
    scale = torch.rand(c_out if per_channel else 1) * 0.01 + 0.001
    pairs = [[stride] * 2, [padding] * 2, [dilation] * 2]
    offset = torch.randn(c_out) if bias else None
    return codes.contiguous(memory_format=channels_last), zero_point, weight, scale, offset, *pairs, groups


def in_float64(
    codes: Tensor, zero_point: int, weight: Tensor, scale: Tensor, bias: Tensor | None, *rest: Any
) -> Tensor:
    sums = F.conv2d(codes.double() - zero_point, weight.double(), None, *rest)
    return sums * scale.double().view(1, -1, 1, 1) + (0.0 if bias is None else bias.double().view(1, -1, 1, 1))


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(
    ("bits", "zero_point", "per_channel", "bias"), [(8, 0, False, True), (8, 128, True, False), (4, 8, True, True)]
)
@pytest.mark.parametrize("fast", [True, False])
def test_the_operator_is_the_convolution_of_the_codes(
    geometry: tuple[int, ...],
    bits: int,
    zero_point: int,
    per_channel: bool,
    bias: bool,
    fast: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not fast:
        monkeypatch.setattr(integer_forward, "is_fast", lambda: False)
    arguments = operands(geometry, bits, zero_point, per_channel, bias)
    result = operator(*arguments)
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=channels_last)
    # Whole numbers below 2^24, so that float32 rounds in the scale and the bias alone.
    torch.testing.assert_close(result.double(), in_float64(*arguments), rtol=3e-7, atol=1e-6)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_compiler_is_told_shape_and_strides(geometry: tuple[int, ...]) -> None:
    arguments = operands(geometry, 4, 8, True, True)
    result, shape = operator(*arguments), operator(*[a.to("meta") if isinstance(a, Tensor) else a for a in arguments])
    assert (shape.shape, shape.stride(), shape.dtype) == (result.shape, result.stride(), result.dtype)


@pytest.fixture
def integers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Convolutions in integers on any CPU (the operator has a form for each); nothing compiled is left over."""
    if not hasattr(lowering, "user_lowerings"):
        pytest.skip("this torch takes no lowerings from users")
    torch._dynamo.reset()
    monkeypatch.setitem(lowering.user_lowerings, convolution, integer_forward.lower_convolution)
    with config.patch(fx_graph_cache=False), functorch_config.patch(enable_autograd_cache=False):
        yield
    torch._dynamo.reset()


def quantized(model: nn.Sequential, x: Tensor, **spec: Any) -> tuple[nn.Sequential, Tensor]:
    quantize_model(model, QuantSpec(edge_bits="same", **spec))
    calibrate(model, [x])
    return model, x


def network(**spec: Any) -> tuple[nn.Sequential, Tensor]:
    """A strided convolution, one with a bias and groups, and one behind pooled branches."""

    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x, F.avg_pool2d(x, 3, 1, 1)], 1)

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, bias=False), nn.BatchNorm2d(16), nn.SiLU(),
        nn.Conv2d(16, 8, 3, padding=1, groups=2), nn.SiLU(), Branches(), nn.Conv2d(16, 4, 1),
    )  # fmt: skip
    return quantized(model, torch.randn(4, 3, 13, 13), **spec)


def one_layer(**spec: Any) -> tuple[nn.Sequential, Tensor]:
    torch.manual_seed(0)
    return quantized(nn.Sequential(nn.ReLU(), nn.Conv2d(4, 8, 3)), torch.randn(2, 4, 8, 8), **spec)


def output_and_gradients(run: nn.Module, model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    output = run(x)
    output.square().mean().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"output": output.detach(), **gradients}


def compiled(model: nn.Module, x: Tensor) -> tuple[dict[str, Tensor], int]:
    """Returns what the compiled network gives, and how many of its convolutions are in integers."""
    found, codes = run_and_get_code(lambda: output_and_gradients(torch.compile(model, dynamic=False), model, x))
    return found, sum(code.count("= torch.ops.qreg_yolo.integer_conv2d") for code in codes)


def assert_compiled_equals_eager(model: nn.Module, x: Tensor, count: int) -> None:
    expected = output_and_gradients(model, model, x)
    found, integer_convolutions = compiled(model, x)
    assert integer_convolutions == count
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.usefixtures("integers")
@pytest.mark.parametrize(
    ("spec", "memory_format"),
    [
        ({"weight_bits": 4, "act_bits": 4}, torch.contiguous_format),
        ({"weight_bits": 8, "act_bits": 8, "per_channel": True, "signed": "signed"}, channels_last),
    ],
)
def test_a_compiled_network_computes_what_the_eager_one_does(
    spec: dict[str, Any], memory_format: torch.memory_format
) -> None:
    model, x = network(**spec)
    model, x = model.to(memory_format=memory_format), x.contiguous(memory_format=memory_format)
    assert_compiled_equals_eager(model, x, count=3)


@pytest.mark.usefixtures("integers")
@pytest.mark.parametrize(
    ("spec", "count"),
    [
        ({"weight_bits": 2, "act_bits": 2, "signed": "signed"}, 1),
        ({"weight_bits": 2, "act_bits": 2, "signed": "unsigned", "per_channel": True}, 1),
        ({"weight_bits": 4, "act_bits": 4, "method": "lsq+"}, 0),
        ({"weight_bits": 4, "act_bits": 4, "method": "pact"}, 0),
    ],
)
def test_a_compiled_layer_computes_what_the_eager_one_does(spec: dict[str, Any], count: int) -> None:
    assert_compiled_equals_eager(*one_layer(**spec), count)


@pytest.mark.usefixtures("integers")
def test_a_weight_that_is_no_number_still_reaches_the_gradients() -> None:
    model, x = one_layer(weight_bits=4, act_bits=4)
    with torch.no_grad():
        model[1].weight[0, 0, 0, 0] = torch.nan
    found, count = compiled(model, x)
    assert count == 1
    assert any(not value.isfinite().all() for value in found.values())


def test_it_is_used_where_the_cpu_is_made_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lowering, "user_lowerings", {}, raising=False)
    monkeypatch.setattr(integer_forward, "is_fast", lambda: False)
    assert not integer_forward.use_integer_convolutions()
    assert not lowering.user_lowerings
    monkeypatch.setattr(integer_forward, "is_fast", lambda: True)
    assert integer_forward.use_integer_convolutions()
    assert lowering.user_lowerings == {convolution: integer_forward.lower_convolution}


def test_somebody_elses_lowering_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integer_forward, "is_fast", lambda: True)
    monkeypatch.setattr(lowering, "user_lowerings", {convolution: print}, raising=False)
    assert not integer_forward.use_integer_convolutions()
    assert lowering.user_lowerings[convolution] is print


def test_an_older_torch_takes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integer_forward, "is_fast", lambda: True)
    monkeypatch.delattr(lowering, "user_lowerings", raising=False)
    assert not integer_forward.use_integer_convolutions()
