"""The LSQ+ modules: initial range, gradient scale, state."""

from __future__ import annotations

import math

import pytest
import torch

from qreg_yolo.quant.calibration import calibrate
from qreg_yolo.quant.convert import quantize_model
from qreg_yolo.quant.functional import lsq_plus_initial_range
from qreg_yolo.quant.lsq import LSQInputQuantizer, LSQWeightQuantizer
from qreg_yolo.quant.lsq_plus import LSQPlusInputQuantizer
from qreg_yolo.quant.spec import QuantizerSpec, QuantSpec
from tests.quant import oracles


def input_quantizer(bits=4, grad_scale="sample"):
    return LSQPlusInputQuantizer(QuantizerSpec(method="lsq+", bits=bits, signed=False, grad_scale=grad_scale))


def calibrated(quantizer, *batches):
    for batch in batches:
        quantizer.calibrate(batch)
    quantizer.finish_calibration()
    return quantizer


def error_of(quantizer, x):
    return (quantizer(x) - x).square().mean().item()


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weights_start_at_three_sigma(bits, per_channel):
    torch.manual_seed(0)
    w = torch.randn(3, 4, 2, 2) * 0.2 + 0.05
    spec = QuantizerSpec(method="lsq+", bits=bits, signed=True, per_channel=per_channel)
    quantizer = LSQWeightQuantizer(spec, channels=3)
    quantizer.calibrate(w)
    rows = list(w) if per_channel else [w]
    expected = [(abs(r.mean().item()) + 3 * r.std(correction=0).item()) / 2 ** (bits - 1) for r in rows]
    assert quantizer.step_size.flatten().tolist() == pytest.approx(expected, rel=1e-5)
    assert (quantizer.quant_min, quantizer.quant_max) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def test_one_bit_weights_start_as_lsqs():
    w = torch.tensor([[1.0, -2.0], [4.0, -1.0]])
    quantizer = LSQWeightQuantizer(QuantizerSpec(method="lsq+", bits=1, signed=True))
    quantizer.calibrate(w)
    assert quantizer.step_size.item() == 2.0
    assert quantizer(w).tolist() == [[2.0, -2.0], [2.0, -2.0]]


DATA = {
    "silu": lambda x: torch.nn.functional.silu(x),
    "wide silu": lambda x: torch.nn.functional.silu(3 * x + 1),
    "normal": lambda x: x,
    "relu": lambda x: x.relu(),
    "image": lambda x: torch.sigmoid(x),
    "negative": lambda x: -x.exp(),
    "one outlier": lambda x: torch.cat([torch.nn.functional.silu(x[1:]), x.new_full((1,), 30.0)]),
}


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("kind", DATA)
def test_the_initial_range_is_about_as_good_as_a_dense_search(kind, bits):
    """Never above the full range's error, and within 15 percent of the best of 1600 clipped ranges."""
    high = 2**bits - 1
    x = DATA[kind](torch.randn(1000, generator=torch.Generator().manual_seed(1))).double()
    step, offset = lsq_plus_initial_range(x, quant_min=0, quant_max=high)
    found = oracles.lsq_plus_error(x, step.item(), offset.item(), high)
    low, top = x.min().item(), x.max().item()
    full = oracles.lsq_plus_error(x, (top - low) / high, low, high)
    shrink = 2.0 ** -(torch.arange(40) / 8).double()
    middle = x.median()
    lows, tops = torch.meshgrid(middle + (low - middle) * shrink, middle + (top - middle) * shrink, indexing="ij")
    steps = ((tops - lows) / high).reshape(-1, 1)
    codes = ((x - lows.reshape(-1, 1)) / steps).round().clamp(0, high)
    dense = (codes * steps + lows.reshape(-1, 1) - x).square().mean(1).min().item()
    assert found <= full * (1 + 1e-9)
    assert found <= dense * 1.15


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_on_silu_the_initial_error_is_below_lsqs_and_that_of_the_full_range(bits):
    x = torch.nn.functional.silu(torch.randn(8, 16, 20, 20, generator=torch.Generator().manual_seed(0)))
    plus = calibrated(input_quantizer(bits), x)
    lsq = calibrated(LSQInputQuantizer(QuantizerSpec(method="lsq", bits=bits, signed=None)), x)
    high = 2**bits - 1
    step, low = (x.max() - x.min()) / high, x.min()
    full = (((x - low) / step).round() * step + low - x).square().mean().item()
    assert error_of(plus, x) < error_of(lsq, x)
    assert error_of(plus, x) < full


def test_the_range_follows_a_shift_and_a_scale():
    x = torch.randn(3000, generator=torch.Generator().manual_seed(0)).double()
    step, offset = lsq_plus_initial_range(x, quant_min=0, quant_max=15)
    moved = lsq_plus_initial_range(4 * x + 10, quant_min=0, quant_max=15)
    assert moved[0].item() == pytest.approx(4 * step.item(), rel=1e-3)
    assert moved[1].item() == pytest.approx(4 * offset.item() + 10, rel=1e-3)


@pytest.mark.parametrize("value", [0.0, 1.5, -3.0])
@pytest.mark.parametrize("bits", [1, 8])
def test_constant_data_are_kept(value, bits):
    x = torch.full((4, 5), value)
    quantizer = calibrated(input_quantizer(bits), x)
    assert quantizer.step_size.item() > 0
    torch.testing.assert_close(quantizer(x), x, rtol=1e-5, atol=1e-6)


def test_as_many_values_as_codes_are_kept():
    x = torch.tensor([[-1.0, -0.5, 0.0, 0.5]])
    quantizer = calibrated(input_quantizer(2), x)
    torch.testing.assert_close(quantizer(x), x, rtol=0, atol=1e-6)
    assert quantizer.to_int(x).tolist() == [[0, 1, 2, 3]]


def test_calibration_without_or_with_broken_data_raises():
    with pytest.raises(RuntimeError, match="No calibration batch reached LSQPlusInputQuantizer"):
        input_quantizer().finish_calibration()
    empty = input_quantizer()
    empty.calibrate(torch.zeros(0, 3))
    with pytest.raises(RuntimeError, match="No calibration batch reached"):
        empty.finish_calibration()
    for bad in (math.nan, math.inf):
        broken = input_quantizer()
        broken.calibrate(torch.tensor([1.0, bad]))
        broken.calibrate(torch.ones(2))
        with pytest.raises(RuntimeError, match="not finite"):
            broken.finish_calibration()
        assert not broken.is_initialized
    for use in (input_quantizer(), input_quantizer().to_int):
        with pytest.raises(RuntimeError, match="has no range yet"):
            use(torch.ones(2, 2))


def gradients(quantizer, x):
    quantizer.zero_grad()
    quantizer(x).sum().backward()
    return quantizer.step_size.grad.item(), quantizer.offset.grad.item()


@pytest.mark.parametrize(("grad_scale", "factor", "count"), [("sample", 2.0, 48), ("batch", math.sqrt(2), 96)])
def test_step_and_offset_share_lsqs_gradient_scale(grad_scale, factor, count):
    x = torch.nn.functional.silu(torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(3)) * 2)
    quantizer = calibrated(input_quantizer(2, grad_scale), x)
    with torch.no_grad():
        quantizer.step_size.mul_(0.7)  # so that some values are clipped
    expected = oracles.lsq_plus(x, quantizer.step_size.item(), quantizer.offset.item(), 3, torch.ones_like(x))
    once, twice = gradients(quantizer, x), gradients(quantizer, torch.cat([x, x]))
    assert expected["db"].item() > 0
    assert once == pytest.approx([expected[k].item() / math.sqrt(count * 3) for k in ("ds", "db")], rel=1e-4)
    assert twice == pytest.approx([factor * g for g in once], rel=1e-4)


def test_an_empty_batch_passes():
    assert calibrated(input_quantizer(), torch.rand(2, 3))(torch.zeros(0, 3)).shape == (0, 3)


def test_a_convolution_pads_with_the_code_of_0():
    """With an integer zero point the padding is on the grid of the input."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3, padding=1, bias=False))
    quantize_model(model, QuantSpec(method="lsq+", weight_bits=4, act_bits=2, first_last_bits="same"))
    x = torch.nn.functional.silu(torch.randn(2, 1, 6, 6)) - 0.2
    calibrate(model, [x])
    quantizer, weight = model[0].input_fake_quant, model[0].weight_fake_quant(model[0].weight)
    code = quantizer.to_int(torch.zeros(1)).item()
    padded = torch.nn.functional.pad(quantizer.to_int(x), (1, 1, 1, 1), value=code)
    values = padded * quantizer.step_size + quantizer.value_of_code_0
    torch.testing.assert_close(model(x), torch.nn.functional.conv2d(values, weight))
