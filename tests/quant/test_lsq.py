from __future__ import annotations

import math

import pytest
import torch

from qreg_yolo.quant.functional import (
    MIN_STEP,
    grid_bounds,
    lsq_clipped,
    lsq_codes,
    lsq_fake_quantize,
    lsq_grad_scale,
    lsq_initial_step,
    round_ste,
)
from tests.quant import oracles

BITS = (1, 2, 4, 8)


def _edge_ratios(low: int, high: int) -> list[float]:
    """v/s at the bounds, at ties, in the half step beyond the bounds, far outside, at both zeros."""
    around = [d for q in (low, high) for d in (q - 1.0, q - 0.7, q - 0.5, q - 0.2, q, q + 0.2, q + 0.5, q + 0.7, q + 3)]
    return [*around, 0.0, -0.0, 0.5, -0.5, 1.5, -1.5, 2.5, -2.5, 0.3, -0.3, 1e6, -1e6]


def _run(v, step, low, high, grad, grad_scale=1.0, binary=False):
    v, step = v.clone().requires_grad_(), step.clone().requires_grad_()
    out = lsq_fake_quantize(v, step, quant_min=low, quant_max=high, grad_scale=grad_scale, binary=binary)
    dv, ds = torch.autograd.grad(out, (v, step), grad)
    return out.detach(), dv, ds


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", BITS)
def test_forward_and_gradients_equal_the_loop(bits, signed, per_channel, dtype):
    torch.manual_seed(bits)
    low, high = oracles.lsq_bounds(bits, signed)
    # Steps that are powers of two: v/s is exact, so that ties and bounds are hit in float32 too.
    step = torch.tensor([0.25, 2.0, 0.5] if per_channel else 0.25, dtype=dtype)
    wide = step.view(-1, 1, 1) if per_channel else step
    ratios = torch.tensor(_edge_ratios(low, high), dtype=dtype).repeat(3, 2, 1)
    noise = torch.randn(3, 2, 40, dtype=dtype) * (high + 1)
    v = torch.cat([ratios, noise], 2) * wide
    grad = torch.randn_like(v)
    binary = bits == 1 and signed
    out, dv, ds = _run(v, wide, low, high, grad, grad_scale=0.125, binary=binary)
    expected = oracles.lsq(v, step, low, high, grad, binary)
    assert out.dtype == dv.dtype == ds.dtype == dtype
    assert torch.equal(out.double(), expected["value"])
    assert torch.equal(dv.double(), expected["dv"])
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(
        ds.double().reshape(step.shape), 0.125 * expected["ds"], rtol=tolerance, atol=tolerance * high * 30
    )
    codes = lsq_codes(v, wide, quant_min=low, quant_max=high, binary=binary)
    assert torch.equal(codes.long(), expected["codes"])


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("signed", [True, False])
def test_grid_bounds(bits, signed):
    assert grid_bounds(bits, signed=signed) == oracles.lsq_bounds(bits, signed)


def test_two_bits_by_hand():
    """Levels -2, -1, 0, 1 times s = 0.5; ds = 1 g and dv = 0 in the half step beyond Q_P."""
    v = torch.tensor([-1.5, -1.0, -0.6, 0.2, 0.5, 0.6, 0.9])
    out, dv, ds = _run(v, torch.tensor(0.5), -2, 1, torch.tensor([1.0, 2, 4, 8, 16, 32, 64]))
    assert out.tolist() == [-1.0, -1.0, -0.5, 0.0, 0.5, 0.5, 0.5]
    assert dv.tolist() == [0.0, 2.0, 4.0, 8.0, 16.0, 0.0, 0.0]
    # -2 | 0 | -1+1.2 | -0.4 | 0 | 1 | 1
    assert ds.item() == pytest.approx(-2 + 4 * 0.2 - 8 * 0.4 + 32 + 64, abs=1e-5)


def test_one_signed_bit_is_the_sign():
    v = torch.tensor([-3.0, -0.25, -0.0, 0.0, 0.25, 3.0], dtype=torch.float64)
    out, dv, ds = _run(v, torch.tensor(0.5, dtype=torch.float64), -1, 1, torch.ones(6), binary=True)
    assert out.tolist() == [-0.5, -0.5, 0.5, 0.5, 0.5, 0.5]
    assert dv.tolist() == [0.0, 1.0, 1.0, 1.0, 1.0, 0.0]
    assert ds.item() == -1 + (-1 + 0.5) + 1 + 1 + (1 - 0.5) + 1


@pytest.mark.parametrize(("low", "high"), [(-2, 1), (0, 3), (-128, 127), (0, 255)])
def test_the_interval_is_closed_and_one_step_of_the_float_beyond_is_outside(low, high):
    for dtype in (torch.float32, torch.float64):
        for bound in (low, high):
            at = torch.tensor(float(bound), dtype=dtype)
            outward = math.copysign(math.inf, -1 if bound == low else 1)
            beyond = torch.nextafter(at, torch.tensor(outward, dtype=dtype))
            if bound == 0:
                beyond = torch.tensor(-2e-38, dtype=dtype)  # beyond the smallest normal float32
            _, dv, ds = _run(torch.stack([at, beyond]), torch.ones((), dtype=dtype), low, high, torch.ones(2))
            assert dv.tolist() == [1.0, 0.0]
            assert ds.item() == bound  # 0 at the bound, the bound beyond


def test_zeros_of_an_unsigned_input_pass_their_gradient():
    _, dv, ds = _run(torch.tensor([0.0, -0.0]), torch.tensor(0.3), 0, 3, torch.ones(2))
    assert dv.tolist() == [1.0, 1.0]
    assert ds.item() == 0.0


def _torch_learnable(v, step, low, high, grad):
    v, step = v.clone().requires_grad_(), step.reshape(1).clone().requires_grad_()
    out = torch._fake_quantize_learnable_per_tensor_affine(v, step, torch.zeros(1), low, high, 1.0)
    dv, ds = torch.autograd.grad(out, (v, step), grad)
    return out.detach(), dv, ds.squeeze()


def test_differs_from_torchs_learnable_kernel_in_the_half_step_band():
    v, step = torch.tensor([1.2]), torch.tensor(1.0)
    ours = _run(v, step, -2, 1, torch.ones(1))
    torchs = _torch_learnable(v, step, -2, 1, torch.ones(1))
    assert [t.item() for t in ours] == [1.0, 0.0, 1.0]
    assert torchs[0].item() == 1.0
    assert torchs[1].item() == 1.0
    assert torchs[2].item() == pytest.approx(-0.2, abs=1e-6)


@pytest.mark.parametrize(("low", "high"), [(-2, 1), (-8, 7), (0, 15), (-128, 127)])
def test_agrees_with_torchs_kernel_where_nothing_is_in_that_band(low, high):
    torch.manual_seed(0)
    ratio = torch.randn(500) * high
    band = ((ratio > high) & (ratio <= high + 0.5)) | ((ratio < low) & (ratio >= low - 0.5))
    v = ratio[~band] * 0.25
    grad = torch.randn_like(v)
    for ours, torchs in zip(
        _run(v, torch.tensor(0.25), low, high, grad),
        _torch_learnable(v, torch.tensor(0.25), low, high, grad),
        strict=True,
    ):
        torch.testing.assert_close(ours, torchs, rtol=1e-5, atol=1e-4)


def test_step_gradient_equals_finite_differences_outside_the_range():
    """Outside the range the output is linear in s."""
    v = torch.tensor([-9.0, -3.0, 2.0, 7.0], dtype=torch.float64)
    weights = torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.float64)
    step, h = torch.tensor(0.5, dtype=torch.float64), 1e-6
    _, _, ds = _run(v, step, -2, 1, weights)
    loss = [(lsq_fake_quantize(v, step + d, quant_min=-2, quant_max=1) * weights).sum().item() for d in (h, -h)]
    assert ds.item() == pytest.approx((loss[0] - loss[1]) / (2 * h), rel=1e-7)


def test_a_negative_step_acts_as_its_magnitude_and_gets_the_opposite_gradient():
    v, grad = torch.randn(50, generator=torch.Generator().manual_seed(0)), torch.ones(50)
    positive = _run(v, torch.tensor(0.3), -2, 1, grad)
    negative = _run(v, torch.tensor(-0.3), -2, 1, grad)
    assert torch.equal(positive[0], negative[0])
    assert torch.equal(positive[1], negative[1])
    assert positive[2].item() == -negative[2].item() != 0


def test_a_zero_step_is_floored():
    out, dv, ds = _run(torch.tensor([1.0, -1.0, 0.0]), torch.tensor(0.0), -2, 1, torch.tensor([1.0, 1.0, 1.0]))
    assert out.tolist() == pytest.approx([MIN_STEP, -2 * MIN_STEP, 0.0], rel=1e-6)
    assert dv.tolist() == [0.0, 0.0, 1.0]
    assert ds.item() == -1.0  # 1 - 2 + 0


def test_initial_step_by_hand():
    v = torch.tensor([[1.0, -3.0], [0.0, 8.0]])
    assert lsq_initial_step(v, 7).item() == pytest.approx(2 * 3 / math.sqrt(7))
    assert lsq_initial_step(v, 7, axes=(1,)).tolist() == pytest.approx([4 / math.sqrt(7), 8 / math.sqrt(7)])
    assert lsq_initial_step(torch.zeros(3), 7).item() == pytest.approx(MIN_STEP)
    assert lsq_initial_step(v.bfloat16(), 7).dtype == torch.float32


def test_grad_scale_halves_when_n_quadruples():
    assert lsq_grad_scale(100, 7) == pytest.approx(1 / math.sqrt(700))
    assert lsq_grad_scale(400, 7) == pytest.approx(lsq_grad_scale(100, 7) / 2)


def test_round_is_half_to_even_with_gradient_one():
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 0.4], requires_grad=True)
    out = round_ste(x)
    out.backward(torch.arange(6.0))
    assert out.tolist() == [0.0, 2.0, 2.0, 0.0, -2.0, 0.0]
    assert x.grad.tolist() == list(range(6))


@pytest.mark.parametrize("shape", [(), (3, 1, 1), (3, 4, 1), (1, 4, 1), (4, 5), (2, 3, 4, 5)])
def test_the_step_may_have_any_shape_that_broadcasts(shape):
    torch.manual_seed(0)
    v = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    step = torch.rand(shape, dtype=torch.float64) + 0.2
    _, _, ds = _run(v, step, -2, 1, torch.ones_like(v))
    contributions = [
        oracles.lsq_value(x, s, -2, 1)[2]
        for x, s in zip(v.flatten().tolist(), step.expand(v.shape).flatten().tolist(), strict=True)
    ]
    expected = torch.tensor(contributions, dtype=torch.float64).reshape(v.shape)
    axes = [a for a in range(4) if ((1,) * (4 - len(shape)) + shape)[a] == 1]
    for axis in axes:
        expected = expected.sum(axis, keepdim=True)
    assert ds.shape == step.shape
    torch.testing.assert_close(ds, expected.reshape(shape), rtol=0, atol=1e-12)


def test_clipped_marks_what_is_outside_in_the_precision_of_the_forward():
    step = torch.tensor(0.1001)
    v = torch.tensor([0.7, 0.703125, -0.8, -0.8046875]).bfloat16()  # v/s: 7.004, 7.02, -8.002, -8.04
    assert lsq_clipped(v, step, quant_min=-8, quant_max=7).tolist() == [
        x / 0.1001 < -8 or x / 0.1001 > 7 for x in v.tolist()
    ]
