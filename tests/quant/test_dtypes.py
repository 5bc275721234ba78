"""Precision: computed in float32 under autocast and for half inputs, ranges that survive .half(), float64 kept."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qreg_yolo.quant.calibration import calibrate
from qreg_yolo.quant.convert import quantize_model, quantized_layers
from qreg_yolo.quant.functional import (
    dorefa_quantize_activation,
    dorefa_quantize_weight,
    lsq_codes,
    lsq_fake_quantize,
    lsq_plus_fake_quantize,
    pact_codes,
    pact_fake_quantize,
)
from qreg_yolo.quant.spec import QuantSpec

STEP = torch.tensor(0.01375793)
FUNCTIONS = {
    "lsq": lambda v, p: lsq_fake_quantize(v, p, quant_min=-128, quant_max=127),
    "lsq+": lambda v, p: lsq_plus_fake_quantize(v, p, -100 * p, quant_min=0, quant_max=255),
    "pact": lambda v, p: pact_fake_quantize(v, p * 100, bits=8),
    "dorefa activation": lambda v, p: dorefa_quantize_activation(v, bits=8) * (p / p),
    "dorefa weight": lambda v, p: dorefa_quantize_weight(v, bits=8, rescale=True) * (p / p),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_dtype_in_is_dtype_out_forward_and_backward(name, dtype):
    v = torch.randn(64, dtype=torch.float64).to(dtype).requires_grad_()
    step = STEP.clone().to(dtype if dtype == torch.float64 else torch.float32).requires_grad_()
    if name.startswith("dorefa"):
        step = torch.tensor(1.0, dtype=v.dtype, requires_grad=True)
    out = FUNCTIONS[name](v, step)
    out.sum().backward()
    assert out.dtype == v.grad.dtype == dtype
    assert step.grad.dtype == step.dtype


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_inputs_are_quantized_in_float32(dtype, autocast):
    """8-bit codes of a bf16 tensor equal the float32 codes of the same numbers, and the value is their nearest."""
    v = (torch.randn(4000, generator=torch.Generator().manual_seed(0))).to(dtype)
    low, high = -128, 127
    expected = (v.double() / STEP.double()).clamp(low, high).round()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        codes = lsq_codes(v, STEP, quant_min=low, quant_max=high)
        out = lsq_fake_quantize(v, STEP, quant_min=low, quant_max=high)
        pact = pact_codes(v, STEP * 100, bits=8)
    assert torch.equal(codes.double(), expected)
    assert torch.equal(out, (expected.float() * STEP).to(dtype))
    expected = (v.double().clamp(0, STEP.double().item() * 100) / (STEP.double() * 100) * 255).round()
    assert torch.equal(pact.double(), expected)


def test_step_gradient_of_half_inputs_is_summed_in_float32():
    v = torch.full((4096,), 3.0).bfloat16().requires_grad_()
    step = torch.tensor(1.0, requires_grad=True)
    lsq_fake_quantize(v, step, quant_min=-2, quant_max=1).sum().backward()
    assert step.grad.item() == 4096.0  # a bf16 sum stops at 256


def test_float64_is_computed_in_float64():
    v = torch.tensor([1.0 + 2.0**-40], dtype=torch.float64)
    step = torch.tensor(2.0, dtype=torch.float64)
    assert lsq_fake_quantize(v, step, quant_min=-8, quant_max=7).item() == 2.0  # in float32 a tie, rounded to 0
    assert pact_fake_quantize(v / 2, torch.tensor(1.0).double(), bits=1).item() == 1.0
    assert dorefa_quantize_activation(v / 2, bits=1).item() == 1.0


METHODS = ["lsq", "lsq+", "pact", "dorefa"]


def network(method="lsq"):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    quantize_model(model, QuantSpec(method=method, per_channel=True))
    calibrate(model, [torch.randn(4, 3, 8, 8)])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "fake_quant" in name:
                parameter.mul_(1.000123)  # digits that half precision does not hold
    return model


def ranges(model):
    return {n: p for n, p in model.named_parameters() if "fake_quant" in n}


@pytest.mark.parametrize("method", METHODS[:3])
@pytest.mark.parametrize(
    "cast",
    [
        lambda m: m.half(),
        lambda m: m.bfloat16(),
        lambda m: m.to(torch.float16),
        lambda m: m.to("cpu", torch.bfloat16),
        lambda m: m.half().float(),
    ],
)
def test_half_leaves_the_ranges_in_float32(method, cast):
    model = network(method)
    before = {n: p.detach().clone() for n, p in ranges(model).items()}
    objects = ranges(model)
    assert before
    cast(model)
    for name, parameter in ranges(model).items():
        assert parameter is objects[name]
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, before[name])


def test_half_does_halve_the_rest():
    assert network().half()[0].weight.dtype == torch.float16


@pytest.mark.parametrize("method", METHODS)
def test_double_works_throughout(method):
    model = network(method).double()
    assert all(p.dtype == torch.float64 for p in model.parameters())
    out = model(torch.randn(2, 3, 8, 8, dtype=torch.float64))
    out.sum().backward()
    assert out.dtype == torch.float64
    assert all(p.grad is not None for p in model.parameters())
    assert all(p.dtype == torch.float32 for p in model.float().parameters())


@pytest.mark.parametrize("method", METHODS)
def test_autocast_trains(method):
    model = network(method)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(torch.randn(2, 3, 8, 8))
    out.float().sum().backward()
    assert out.dtype == torch.bfloat16
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


def test_autocast_uses_the_float32_codes():
    """The first layer sees float32 in and out of autocast: its quantized tensors are the same."""
    model = network()
    seen = []
    first = next(iter(quantized_layers(model).values()))
    for quantizer in (first.weight_fake_quant, first.input_fake_quant):
        quantizer.register_forward_hook(lambda m, args, out: seen.append(out.detach().clone()))
    x = torch.randn(2, 3, 8, 8)
    model(x)
    with torch.autocast("cpu", torch.bfloat16):
        model(x)
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[3])
