from __future__ import annotations

import math

import pytest
import torch

from qreg_yolo.quant.dorefa import DoReFaInputQuantizer, DoReFaWeightQuantizer
from qreg_yolo.quant.functional import dorefa_quantize_activation, dorefa_quantize_weight, dorefa_weight_codes
from qreg_yolo.quant.spec import QuantizerSpec
from tests.quant import oracles


def weights(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_weights_equal_the_loop(bits, per_channel):
    w = weights(3, 20)
    rows = w.tolist() if per_channel else [w.flatten().tolist()]
    expected = [oracles.dorefa_weight(row, bits) for row in rows]
    out = dorefa_quantize_weight(w, bits=bits, per_channel=per_channel)
    codes = dorefa_weight_codes(w, bits=bits, per_channel=per_channel)
    assert codes.flatten().tolist() == [c for row, _ in expected for c in row]
    assert out.flatten().tolist() == pytest.approx([v for _, row in expected for v in row], abs=1e-15)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_result_spans_one_whatever_the_weights(bits):
    for scale in (1e-4, 1.0, 5.0):
        w = torch.cat([weights(500), weights(500).neg()]) * scale
        out = dorefa_quantize_weight(w, bits=bits)
        assert out.min().item() == -1.0
        assert out.max().item() == 1.0
        levels = 2**bits - 1
        grid = {2 * c / levels - 1 for c in range(levels + 1)}
        assert all(min(abs(v - g) for g in grid) < 1e-14 for v in set(out.tolist()))


@pytest.mark.parametrize(("bits", "value"), [(2, 1 / 3), (4, 1 / 15), (8, 1 / 255)])
def test_a_zero_weight_becomes_the_smallest_positive_level(bits, value):
    """There is no zero level; (2^k - 1) / 2 is a tie that rounds to the even code 2^(k-1)."""
    out = dorefa_quantize_weight(torch.tensor([0.0, 1.0, -1.0]), bits=bits)
    assert out.tolist() == pytest.approx([value, 1.0, -1.0], abs=1e-7)


def test_one_bit_is_the_sign_times_the_mean_magnitude():
    w = torch.tensor([[0.0, -0.0, 3.0], [-1.0, 2.0, -6.0]], requires_grad=True)
    out = dorefa_quantize_weight(w, bits=1)
    assert out.tolist() == [[2.0, 2.0, 2.0], [-2.0, 2.0, -2.0]]
    assert dorefa_quantize_weight(w, bits=1, per_channel=True).tolist() == [[1.0, 1.0, 1.0], [-3.0, 3.0, -3.0]]
    assert dorefa_weight_codes(w, bits=1).tolist() == [[1.0, 1.0, 1.0], [0.0, 1.0, 0.0]]
    grad = torch.arange(6.0).reshape(2, 3)
    out.backward(grad)
    assert torch.equal(w.grad, grad)  # none through E|w|


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("through_max", [False, True])
def test_gradient_equals_the_formula(through_max, per_channel):
    w, grad = weights(2, 15), weights(2, 15, seed=1)
    w.requires_grad_()
    dorefa_quantize_weight(w, bits=3, per_channel=per_channel, max_grad=through_max).backward(grad)
    blocks = (
        zip(w.tolist(), grad.tolist(), strict=True)
        if per_channel
        else [(w.flatten().tolist(), grad.flatten().tolist())]
    )
    expected = [x for row, g in blocks for x in oracles.dorefa_weight_grad(row, g, through_max)]
    assert w.grad.flatten().tolist() == pytest.approx(expected, rel=1e-12, abs=1e-14)


def test_the_undetached_form_differs_at_the_largest_weight_only():
    w, grad = weights(15), weights(15, seed=1)
    both = []
    for through_max in (False, True):
        leaf = w.clone().requires_grad_()
        dorefa_quantize_weight(leaf, bits=2, max_grad=through_max).backward(grad)
        both.append(leaf.grad)
    assert (both[0] != both[1]).nonzero().flatten().tolist() == [w.abs().argmax().item()]


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_rescale_keeps_the_standard_deviation_and_scales_the_gradient(bits, per_channel):
    w = weights(3, 50) * 0.05
    plain = dorefa_quantize_weight(w, bits=bits, per_channel=per_channel)
    leaf = w.clone().requires_grad_()
    scaled = dorefa_quantize_weight(leaf, bits=bits, per_channel=per_channel, rescale=True)
    rows = zip(w, plain, scaled.detach(), strict=True) if per_channel else [(w, plain, scaled.detach())]
    for before, unit, after in rows:
        ratio = (before - before.mean()).square().mean().sqrt() / (unit - unit.mean()).square().mean().sqrt()
        torch.testing.assert_close(after, unit * ratio)
        assert after.std(correction=0).item() == pytest.approx(before.std(correction=0).item(), rel=1e-9)
    scaled.sum().backward()
    unscaled = w.clone().requires_grad_()
    dorefa_quantize_weight(unscaled, bits=bits, per_channel=per_channel).sum().backward()
    ratio = scaled.detach() / plain
    torch.testing.assert_close(leaf.grad, unscaled.grad * ratio)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("values", [[0.3], [-0.3], [0.0], [0.3] * 7, [-0.7] * 5, [0.1] * 1000, [0.0] * 4])
def test_tiny_and_constant_tensors_stay_finite_and_keep_their_scale(values, bits):
    w = torch.tensor(values, requires_grad=True)
    out = dorefa_quantize_weight(w, bits=bits, rescale=True)
    torch.testing.assert_close(out, w.detach(), rtol=1e-5, atol=0)  # every weight is the largest one
    out.sum().backward()
    assert w.grad.isfinite().all()


def test_a_zero_channel_does_not_disturb_the_others():
    w = torch.stack([torch.zeros(4), torch.tensor([0.1, -0.2, 0.3, 0.05])])
    out = dorefa_quantize_weight(w, bits=4, per_channel=True, rescale=True)
    assert out[0].tolist() == [0.0] * 4
    torch.testing.assert_close(out[1:], dorefa_quantize_weight(w[1:], bits=4, per_channel=True, rescale=True))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_activations_equal_the_loop(bits):
    x = torch.cat([torch.tensor([-1.0, -0.0, 0.0, 1.0, 1.5, 0.5]).double(), weights(200)]).requires_grad_()
    levels = 2**bits - 1
    out = dorefa_quantize_activation(x, bits=bits)
    expected = [round(min(max(v, 0.0), 1.0) * levels) for v in x.tolist()]
    assert out.tolist() == pytest.approx([c / levels for c in expected], abs=1e-15)
    quantizer = DoReFaInputQuantizer(QuantizerSpec(method="dorefa", bits=bits, signed=False))
    assert quantizer.to_int(x).tolist() == expected
    assert quantizer.clipped(x).tolist() == [v < 0 or v > 1 for v in x.tolist()]
    grad = weights(len(x), seed=2)
    out.backward(grad)
    inside = [g if 0 <= v <= 1 else 0.0 for v, g in zip(x.tolist(), grad.tolist(), strict=True)]
    assert x.grad.tolist() == pytest.approx(inside, rel=1e-15, abs=0.0)  # times 2^k - 1 and divided by it


def test_an_unresolved_rescale_raises():
    quantizer = DoReFaWeightQuantizer(QuantizerSpec(method="dorefa", bits=4, signed=True))
    with pytest.raises(RuntimeError, match=r"rescale='auto' is not resolved.*quantize_model"):
        quantizer(torch.ones(2, 2))


def test_two_bits_on_gaussian_weights_use_the_inner_levels_almost_always():
    """quantizers.md B.4: 99.5 % of a Gaussian tensor of this size fall on +-1/3, relative noise is large."""
    w = weights(200_000) * 0.02
    inner = (dorefa_quantize_weight(w, bits=2).abs() < 0.5).double().mean().item()
    largest = w.abs().max().item() / 0.02
    expected = math.erf(2 / 3 * largest / math.sqrt(2))  # |w| < 2/3 max rounds to +-1/3; tanh is linear here
    assert inner == pytest.approx(expected, abs=2e-3)
