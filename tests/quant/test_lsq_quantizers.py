"""The LSQ modules: initialisation, gradient scale, signedness by calibration error."""

from __future__ import annotations

import math

import pytest
import torch

from qreg_yolo.quant.lsq import LSQInputQuantizer, LSQWeightQuantizer
from qreg_yolo.quant.spec import QuantizerSpec
from tests.quant import oracles


def weight_quantizer(bits=4, per_channel=False, channels=None):
    spec = QuantizerSpec(method="lsq", bits=bits, signed=True, per_channel=per_channel)
    return LSQWeightQuantizer(spec, channels=channels)


def input_quantizer(bits=4, signed=None, grad_scale="sample"):
    return LSQInputQuantizer(QuantizerSpec(method="lsq", bits=bits, signed=signed, grad_scale=grad_scale))


def calibrated(quantizer, *batches):
    for batch in batches:
        quantizer.calibrate(batch)
    quantizer.finish_calibration()
    return quantizer


@pytest.mark.parametrize(("bits", "high", "factor"), [(1, 1, 1.0), (2, 1, 2.0), (4, 7, 2.0), (8, 127, 2.0)])
def test_weight_init(bits, high, factor):
    """One signed bit starts at <|w|>, half of LSQ's formula: the least-squares step of a sign."""
    w = torch.tensor([[1.0, -2.0], [4.0, -1.0]])
    per_tensor, per_channel = weight_quantizer(bits), weight_quantizer(bits, True, 2)
    per_tensor.calibrate(w)
    per_channel.calibrate(w)
    assert per_tensor.step_size.item() == pytest.approx(factor * 2.0 / math.sqrt(high))
    assert per_channel.step_size.tolist() == pytest.approx(
        [factor * 1.5 / math.sqrt(high), factor * 2.5 / math.sqrt(high)]
    )
    assert per_tensor.step_size.ndim == 0
    assert per_channel.step_size.ndim == 1


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_weight_quantizer_equals_the_loop(bits, per_channel):
    torch.manual_seed(bits)
    w = torch.randn(3, 4, 2, 2, dtype=torch.float64).requires_grad_()
    quantizer = weight_quantizer(bits, per_channel, 3).double()
    quantizer.calibrate(w)
    low, high = oracles.lsq_bounds(bits, signed=True)
    grad = torch.randn_like(w)
    out = quantizer(w)
    out.backward(grad)
    expected = oracles.lsq(w.detach(), quantizer.step_size.detach(), low, high, grad, binary=bits == 1)
    count = 16 if per_channel else 48
    torch.testing.assert_close(out.detach(), expected["value"], rtol=1e-12, atol=0)
    torch.testing.assert_close(w.grad, expected["dv"], rtol=0, atol=0)
    torch.testing.assert_close(
        quantizer.step_size.grad, expected["ds"] / math.sqrt(count * high), rtol=1e-10, atol=1e-12
    )
    assert torch.equal(quantizer.to_int(w).long(), expected["codes"])
    assert (quantizer.quant_min, quantizer.quant_max) == (low, high)


def step_gradient(quantizer, x):
    quantizer.step_size.grad = None
    quantizer(x).sum().backward()
    return quantizer.step_size.grad.item()


def test_weight_step_gradient_halves_when_the_weight_quadruples():
    """The mean gradient is that of one tensor: four copies give 4 / sqrt(4)."""
    w = torch.randn(4, 4)
    quantizer = weight_quantizer()
    quantizer.calibrate(w)
    once, four = step_gradient(quantizer, w), step_gradient(quantizer, torch.cat([w] * 4))
    assert four == pytest.approx(4 * once / 2, rel=1e-5)


def test_input_gradient_scale_per_sample_does_not_depend_on_the_batch():
    x = torch.rand(2, 3, 4, 4)
    quantizer = calibrated(input_quantizer(signed=False), x)
    once, twice = step_gradient(quantizer, x), step_gradient(quantizer, torch.cat([x, x]))
    assert twice == pytest.approx(2 * once, rel=1e-5)  # the sum doubles, g stays
    unscaled = oracles.lsq(x, quantizer.step_size.detach(), 0, 15, torch.ones_like(x))["ds"].item()
    assert once == pytest.approx(unscaled / math.sqrt(48 * 15), rel=1e-4)


def test_input_gradient_scale_per_batch_falls_with_its_root():
    x = torch.rand(2, 3, 4, 4)
    quantizer = calibrated(input_quantizer(signed=False, grad_scale="batch"), x)
    once, four = step_gradient(quantizer, x), step_gradient(quantizer, torch.cat([x] * 4))
    assert four == pytest.approx(4 * once / 2, rel=1e-5)
    unscaled = oracles.lsq(x, quantizer.step_size.detach(), 0, 15, torch.ones_like(x))["ds"].item()
    assert once == pytest.approx(unscaled / math.sqrt(2 * 48 * 15), rel=1e-4)


@pytest.mark.parametrize("grad_scale", ["sample", "batch"])
def test_an_empty_batch_passes(grad_scale):
    quantizer = calibrated(input_quantizer(grad_scale=grad_scale), torch.rand(2, 3))
    assert quantizer(torch.zeros(0, 3)).shape == (0, 3)


def squared_error(x, step, low, high, binary=False):
    return sum((oracles.lsq_value(v, step, low, high, binary)[0] * step - v) ** 2 for v in x.flatten().tolist())


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", ["positive", "symmetric", "silu"])
def test_auto_takes_the_sign_with_the_lower_error(kind, bits):
    torch.manual_seed(0)
    x = torch.randn(4, 200)
    x = {"positive": x.abs(), "symmetric": x, "silu": torch.nn.functional.silu(x)}[kind]
    quantizer = calibrated(input_quantizer(bits), x)
    errors = {}
    for signed in (False, True):
        low, high = oracles.lsq_bounds(bits, signed)
        one_bit = signed and bits == 1
        step = 2 * x.double().abs().mean().item() / math.sqrt(high) / (2 if one_bit else 1)
        errors[signed] = (squared_error(x, step, low, high, one_bit), step)
    best = min(errors, key=lambda s: errors[s][0])
    assert quantizer.spec.signed is best
    assert quantizer.is_signed.item() is best
    assert quantizer.step_size.item() == pytest.approx(errors[best][1], rel=1e-5)
    if kind == "positive":
        assert best is False
    if kind == "symmetric":
        assert best is True


@pytest.mark.parametrize("signed", [True, False])
def test_a_forced_sign_stays(signed):
    x = torch.randn(10, 10).abs() * (-1 if not signed else 1)  # the data ask for the opposite
    quantizer = calibrated(input_quantizer(4, signed), x)
    assert quantizer.spec.signed is signed
    assert (quantizer.quant_min, quantizer.quant_max) == oracles.lsq_bounds(4, signed)


def test_the_step_is_the_mean_over_batches():
    batches = [torch.full((2, 2), 1.0), torch.full((2, 2), 3.0), torch.full((2, 2), 8.0)]
    quantizer = calibrated(input_quantizer(4, signed=False), *batches)
    assert quantizer.step_size.item() == pytest.approx(2 * 4 / math.sqrt(15))


def test_uninitialised_raises_and_names_the_remedy():
    for quantizer in (weight_quantizer(), input_quantizer()):
        assert not quantizer.is_initialized
        for use in (quantizer, quantizer.to_int):
            with pytest.raises(RuntimeError, match=r"has no range yet.*calibrate\(model, batches\).*state_dict"):
                use(torch.ones(2, 2))


def test_calibration_without_or_with_broken_data_raises():
    with pytest.raises(RuntimeError, match="No calibration batch reached"):
        input_quantizer().finish_calibration()
    broken = input_quantizer()
    broken.calibrate(torch.tensor([1.0, math.nan]))
    with pytest.raises(RuntimeError, match="not finite"):
        broken.finish_calibration()
    assert not broken.is_initialized


def test_all_zero_data_give_a_positive_step():
    assert calibrated(input_quantizer(), torch.zeros(2, 3)).step_size.item() > 0
    quantizer = weight_quantizer()
    quantizer.calibrate(torch.zeros(2, 3))
    assert quantizer.step_size.item() > 0
    assert torch.equal(quantizer(torch.zeros(2, 3)), torch.zeros(2, 3))


def started(init, bits=4, signed=None):
    return LSQInputQuantizer(QuantizerSpec(method="lsq", bits=bits, signed=signed, init=init))


@pytest.mark.parametrize("init", ["mse", "minmax", "percentile"])
def test_an_input_with_a_negative_value_is_signed_except_by_the_papers_start(init):
    """SiLU's lobe is shallow: the squared error at 4 bits prefers the unsigned grid, which loses all of it."""
    torch.manual_seed(0)
    x = torch.nn.functional.silu(2.0 * torch.randn(20000))
    assert calibrated(started("paper"), x).spec.signed is False
    quantizer = calibrated(started(init), x[:10000], x[10000:])
    assert quantizer.spec.signed is True
    assert bool(quantizer.is_signed)
    assert calibrated(started(init), x.clamp_min(0.0)).spec.signed is False
    assert calibrated(started(init, signed=False), x).spec.signed is False


def test_the_starts_differ_and_the_least_error_is_the_least():
    torch.manual_seed(0)
    x, w = torch.randn(4000), torch.randn(8, 500)
    errors = {}
    for init in ("mse", "paper", "minmax", "percentile"):
        quantizer = calibrated(started(init, signed=True), x)
        weights = LSQWeightQuantizer(QuantizerSpec(method="lsq", bits=4, signed=True, init=init))
        weights.calibrate(w)
        errors[init] = [float((q(v).detach() - v).square().mean()) for q, v in ((quantizer, x), (weights, w))]
    for side in (0, 1):
        assert len({errors[init][side] for init in errors}) == 4
        assert min(errors, key=lambda init: errors[init][side]) == "mse"


def test_a_start_per_channel_is_that_of_each_channel():
    torch.manual_seed(0)
    w = torch.randn(3, 2, 3, 3) * torch.tensor([0.1, 1.0, 10.0]).view(3, 1, 1, 1)
    spec = QuantizerSpec(method="lsq", bits=4, signed=True, per_channel=True, init="mse")
    together = LSQWeightQuantizer(spec, channels=3)
    together.calibrate(w)
    for step, row in zip(together.step_size.tolist(), w, strict=True):
        alone = LSQWeightQuantizer(QuantizerSpec(method="lsq", bits=4, signed=True, init="mse"))
        alone.calibrate(row[None])
        assert step == pytest.approx(alone.step_size.item(), rel=1e-5)
