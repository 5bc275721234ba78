from __future__ import annotations

import pytest
import torch
from torch import nn

from qreg_yolo.quant.functional import pact_codes, pact_fake_quantize
from qreg_yolo.quant.optim import quantizer_parameter_groups
from qreg_yolo.quant.pact import PACTInputQuantizer
from qreg_yolo.quant.spec import QuantizerSpec
from tests.quant import oracles


def run(x, clip, bits, grad):
    x, clip = x.clone().requires_grad_(), clip.clone().requires_grad_()
    out = pact_fake_quantize(x, clip, bits=bits)
    dx, da = torch.autograd.grad(out, (x, clip), grad)
    return out.detach(), dx, da


def quantizer(bits=4, **options):
    return PACTInputQuantizer(QuantizerSpec(method="pact", bits=bits, signed=False, **options))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_forward_and_gradients_equal_the_loop(bits):
    torch.manual_seed(bits)
    clip = 3.0
    levels = 2**bits - 1
    ties = [clip * (k + 0.5) / levels for k in range(min(levels, 4))]
    x = torch.tensor([-2.0, -0.0, 0.0, 1e-6, clip, clip + 1e-12, clip - 1e-9, 9.0, *ties], dtype=torch.float64)
    x = torch.cat([x, torch.randn(200, dtype=torch.float64) * 2 + 1])
    grad = torch.randn_like(x)
    out, dx, da = run(x, torch.tensor(clip, dtype=torch.float64), bits, grad)
    expected = oracles.pact(x.tolist(), clip, bits, grad.tolist())
    codes = pact_codes(x, torch.tensor(clip, dtype=torch.float64), bits=bits)
    away = torch.ones(len(x), dtype=torch.bool)
    away[8 : 8 + len(ties)] = False  # a tie falls by the last bit of x / a
    assert codes[away].tolist() == torch.tensor(expected["codes"])[away].tolist()
    assert ((codes[~away] * clip / levels - x[~away]).abs() <= clip / levels * (0.5 + 1e-9)).all()
    torch.testing.assert_close(out, codes * clip / levels, rtol=1e-14, atol=0)
    assert dx.tolist() == expected["dx"]
    assert da.item() == pytest.approx(expected["da"], rel=1e-12)


def test_ties_round_to_even():
    x = torch.tensor([0.5, 1.5, 2.5])
    assert run(x, torch.tensor(3.0), 2, torch.ones(3))[0].tolist() == [0.0, 2.0, 2.0]


def test_the_clip_gradient_is_exactly_zero_where_nothing_is_clipped():
    x = torch.rand(1000) * 2.999
    _, _, da = run(x, torch.tensor(3.0), 2, torch.randn(1000))
    assert da.item() == 0.0


def test_the_clip_gradient_sums_over_x_at_and_above_the_clip():
    x = torch.tensor([-1.0, 0.0, 2.9, 3.0, 3.1, 100.0])
    _, dx, da = run(x, torch.tensor(3.0), 2, torch.tensor([1.0, 2, 4, 8, 16, 32]))
    assert da.item() == 8 + 16 + 32
    assert dx.tolist() == [0.0, 0.0, 4.0, 0.0, 0.0, 0.0]


def test_a_negative_clip_acts_as_its_magnitude_and_gets_the_opposite_gradient():
    x, grad = torch.tensor([1.0, 5.0]), torch.ones(2)
    positive, negative = run(x, torch.tensor(3.0), 2, grad), run(x, torch.tensor(-3.0), 2, grad)
    assert torch.equal(positive[0], negative[0])
    assert (positive[2].item(), negative[2].item()) == (1.0, -1.0)


def test_starts_at_ten_and_needs_no_data():
    module = quantizer()
    assert module.is_initialized
    assert module.clip_value.item() == 10.0
    assert quantizer(clip_init=6.0).clip_value.item() == 6.0
    assert module(torch.tensor([20.0])).item() == 10.0


@pytest.mark.parametrize(("options", "decay"), [({}, 0.01), ({"clip_decay": 0.1}, 0.1), ({"clip_decay": 0.0}, 0.0)])
def test_the_clip_decays_by_l2_without_data_beyond_it(options, decay):
    module = nn.Sequential(quantizer())
    groups = quantizer_parameter_groups(module, weight_decay=0.01, lr=0.5, **options)
    optimizer = torch.optim.SGD(groups)
    expected = 10.0
    for _ in range(5):
        optimizer.zero_grad()
        module(torch.rand(4, requires_grad=True)).sum().backward()
        assert module[0].clip_value.grad.item() == 0.0
        optimizer.step()
        expected *= 1 - 0.5 * decay
    assert module[0].clip_value.item() == pytest.approx(expected, rel=1e-6)
    assert (expected < 10.0) is (decay > 0)


def test_clipped_is_measured_in_float32():
    module = quantizer(clip_init=1.001)
    assert module.clipped(torch.tensor([-0.1, 0.0, 1.0, 1.0078125]).bfloat16()).tolist() == [True, False, False, True]


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_clipping_value_may_be_calibrated(bits):
    torch.manual_seed(bits)
    x = torch.randn(4000).abs() * 2.0
    found = quantizer(bits, clip_init=None, init="mse")
    assert not found.is_initialized
    with pytest.raises(RuntimeError, match="has no range yet"):
        found(x)
    for part in x.split(1000):
        found.calibrate(part)
    found.finish_calibration()

    def error(clip):
        return float((pact_fake_quantize(x, torch.tensor(clip), bits=bits) - x).square().mean())

    dense = min(error(float(x.max()) * k / 2000) for k in range(20, 2001))
    assert error(found.clip_value.item()) <= 1.02 * dense
    widest = quantizer(bits, clip_init=None, init="minmax")
    widest.calibrate(x)
    widest.finish_calibration()
    assert widest.clip_value.item() == pytest.approx(float(x.max()), rel=1e-5)
    assert quantizer(bits, clip_init=6.0, init="mse").clip_value.item() == 6.0
