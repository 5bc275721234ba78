"""Codes against values, and properties of every tensor (hypothesis)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qreg_yolo.quant.functional import (
    dorefa_quantize_activation,
    dorefa_quantize_weight,
    dorefa_weight_codes,
    grid_bounds,
    lsq_codes,
    lsq_fake_quantize,
    lsq_plus_fake_quantize,
    pact_codes,
    pact_fake_quantize,
)
from qreg_yolo.quant.layers import INPUT_QUANTIZERS, WEIGHT_QUANTIZERS
from qreg_yolo.quant.spec import QuantizerSpec

BITS = st.integers(1, 8)
VALUES = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=30)
STEPS = st.floats(2.0**-10, 16, width=32)
SIGNED = st.booleans()


def lsq(values, step, bits, signed, fn=lsq_fake_quantize):
    low, high = grid_bounds(bits, signed=signed)
    v = torch.tensor(values, dtype=torch.float32) if isinstance(values, list) else values
    return fn(v, torch.tensor(step), quant_min=low, quant_max=high, binary=signed and bits == 1)


@given(VALUES, STEPS, BITS, SIGNED)
def test_lsq_codes_times_step_are_the_values(values, step, bits, signed):
    codes = lsq(values, step, bits, signed, lsq_codes)
    assert torch.equal(codes * torch.tensor(step), lsq(values, step, bits, signed))
    low, high = grid_bounds(bits, signed=signed)
    assert (codes >= low).all()
    assert (codes <= high).all()
    assert torch.equal(codes, codes.round())


@given(VALUES, STEPS, BITS, SIGNED)
def test_lsq_is_idempotent(values, step, bits, signed):
    once = lsq(values, step, bits, signed)
    assert torch.equal(lsq(once, step, bits, signed), once)


@given(VALUES, STEPS, BITS, SIGNED, st.integers(-8, 8))
def test_lsq_is_scale_equivariant(values, step, bits, signed, exponent):
    """By powers of two, which multiply exactly."""
    v, scale = torch.tensor(values).double(), 2.0**exponent
    low, high = grid_bounds(bits, signed=signed)
    options = {"quant_min": low, "quant_max": high, "binary": signed and bits == 1}
    small = lsq_fake_quantize(v, torch.tensor(step).double(), **options)
    large = lsq_fake_quantize(v * scale, torch.tensor(step).double() * scale, **options)
    assert torch.equal(large, small * scale)


QUANTIZERS = {
    "lsq signed": lambda v, bits: lsq(v, 0.37, bits, True),
    "lsq unsigned": lambda v, bits: lsq(v, 0.37, bits, False),
    "lsq+": lambda v, bits: lsq_plus_fake_quantize(
        v, torch.tensor(0.37), torch.tensor(-0.8), quant_min=0, quant_max=2**bits - 1
    ),
    "pact": lambda v, bits: pact_fake_quantize(v, torch.tensor(2.7), bits=bits),
    "dorefa activation": lambda v, bits: dorefa_quantize_activation(v, bits=bits),
    "dorefa weight": lambda v, bits: dorefa_quantize_weight(v, bits=bits),
    "dorefa weight, rescaled": lambda v, bits: dorefa_quantize_weight(v, bits=bits, rescale=True),
}


@pytest.mark.parametrize("name", QUANTIZERS)
@given(values=VALUES, bits=BITS)
def test_monotone_with_at_most_two_to_the_bits_values(name, values, bits):
    v = torch.tensor(sorted(values), dtype=torch.float32)
    out = QUANTIZERS[name](v, bits)
    assert out.shape == v.shape
    assert (out.diff() >= 0).all()
    assert out.unique().numel() <= 2**bits


@pytest.mark.parametrize("name", QUANTIZERS)
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_wide_tensor_reaches_every_code(name, bits):
    v = torch.cat([torch.linspace(-100, 100, 4001), torch.linspace(-4, 4, 4001), torch.linspace(0, 1, 4001)])
    if "weight" in name:
        v = v.clamp(-1, 1) * 0.01  # tanh saturates beyond
        v = torch.cat([v, torch.linspace(-0.01, 0.01, 4001)])
    assert QUANTIZERS[name](v, bits).unique().numel() == 2**bits


@given(VALUES, BITS)
def test_pact_codes_give_the_values(values, bits):
    v, clip = torch.tensor(values), torch.tensor(2.7)
    torch.testing.assert_close(
        pact_codes(v, clip, bits=bits) * clip / (2**bits - 1), pact_fake_quantize(v, clip, bits=bits)
    )


@given(VALUES, BITS)
def test_dorefa_codes_give_the_values(values, bits):
    w = torch.tensor(values, dtype=torch.float32)
    codes = dorefa_weight_codes(w, bits=bits)
    scale = w.abs().mean() if bits == 1 else 1.0
    torch.testing.assert_close((2 * codes / (2**bits - 1) - 1) * scale, dorefa_quantize_weight(w, bits=bits))


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("method", WEIGHT_QUANTIZERS)
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_weight_quantizers_to_int(method, bits, per_channel):
    w = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    spec = QuantizerSpec(method=method, bits=bits, signed=True, per_channel=per_channel, rescale=False)
    quantizer = WEIGHT_QUANTIZERS[method](spec, channels=3)
    quantizer.calibrate(w)
    codes = quantizer.to_int(w)
    low, high = quantizer.quant_min, quantizer.quant_max
    assert codes.dtype == torch.int32
    assert codes.shape == w.shape
    assert not codes.requires_grad
    assert low <= codes.min() <= codes.max() <= high
    assert codes.unique().numel() <= 2**bits
    if method in ("lsq", "lsq+"):
        values = codes * (quantizer.step_size.view(3, 1, 1, 1) if per_channel else quantizer.step_size)
    else:
        values = 2 * codes / (2**bits - 1) - 1
        if bits == 1:
            values = values * (w.abs().mean((1, 2, 3), keepdim=True) if per_channel else w.abs().mean())
    torch.testing.assert_close(quantizer(w), values.to(w.dtype))


@pytest.mark.parametrize("method", INPUT_QUANTIZERS)
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_input_quantizers_to_int(method, bits):
    x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    quantizer = INPUT_QUANTIZERS[method](QuantizerSpec(method=method, bits=bits, signed=False))
    if quantizer.learns_range:
        quantizer.calibrate(x)
        quantizer.finish_calibration()
    codes = quantizer.to_int(x)
    levels = 2**bits - 1
    unit = {
        "lsq": lambda: quantizer.step_size,
        "lsq+": lambda: quantizer.step_size,
        "pact": lambda: quantizer.clip_value / levels,
        "dorefa": lambda: torch.tensor(1.0 / levels),
    }[method]()
    assert codes.dtype == torch.int32
    assert (quantizer.quant_min, quantizer.quant_max) == (0, levels)
    shift = quantizer.offset if method == "lsq+" else 0.0
    torch.testing.assert_close(quantizer(x), codes * unit + shift)
