"""LSQ+'s equations against loops in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd.graph import saved_tensors_hooks

from qreg_yolo.quant.functional import (
    MIN_STEP,
    lsq_codes,
    lsq_fake_quantize,
    lsq_plus_clipped,
    lsq_plus_codes,
    lsq_plus_fake_quantize,
    lsq_plus_initial_step,
    lsq_plus_local_gradients,
    zero_point,
)
from tests.quant import oracles

BITS = (1, 2, 4, 8)


def _run(x, step, offset, high, grad, grad_scale=1.0):
    leaves = [t.clone().requires_grad_() for t in (x, step, offset)]
    out = lsq_plus_fake_quantize(*leaves, quant_min=0, quant_max=high, grad_scale=grad_scale)
    return out.detach(), *torch.autograd.grad(out, leaves, grad)


def _edge_ratios(high):
    """(x - beta) / s at the bounds, at ties, in the half step beyond the bounds, far outside."""
    around = [q + d for q in (0, high) for d in (-1, -0.75, -0.5, -0.25, 0, 0.25, 0.5, 0.75, 3)]
    return [*around, -0.0, 0.5, 1.5, 2.5, 0.3, 1e6, -1e6]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("offset", [0.0, -0.375, 2.5])
@pytest.mark.parametrize("bits", BITS)
def test_forward_and_gradients_equal_the_loop(bits, offset, dtype):
    torch.manual_seed(bits)
    high, step = 2**bits - 1, 0.25
    # Step and offset are short binary fractions: (x - beta) / s is exact for the edges, so that ties are hit.
    edges = torch.tensor(_edge_ratios(high), dtype=dtype) * step + offset
    x = torch.cat([edges, torch.randn(80, dtype=dtype) * (high + 1) * step + offset]).reshape(3, -1)
    grad = torch.randn_like(x)
    s, beta = torch.tensor(step, dtype=dtype), torch.tensor(offset, dtype=dtype)
    out, dx, ds, db = _run(x, s, beta, high, grad, grad_scale=0.125)
    expected = oracles.lsq_plus(x, step, offset, high, grad)
    assert out.dtype == dx.dtype == ds.dtype == db.dtype == dtype
    assert torch.equal(out.double(), expected["value"])
    assert torch.equal(dx.double(), expected["dx"])
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(ds.double(), 0.125 * expected["ds"], rtol=tolerance, atol=tolerance * high * 100)
    torch.testing.assert_close(db.double(), 0.125 * expected["db"], rtol=tolerance, atol=tolerance * 10)
    assert torch.equal(lsq_plus_codes(x, s, beta, quant_min=0, quant_max=high).long(), expected["codes"])


def test_two_bits_by_hand():
    """Levels -1, -0.5, 0 and 0.5."""
    x = torch.tensor([-3.0, -1.0, -0.9, -0.3, 0.5, 0.6, 0.9])  # v = -4, 0, 0.2, 1.4, 3, 3.2, 3.8
    out, dx, ds, db = _run(x, torch.tensor(0.5), torch.tensor(-1.0), 3, torch.tensor([1.0, 2, 4, 8, 16, 32, 64]))
    assert out.tolist() == [-1.0, -1.0, -1.0, -0.5, 0.5, 0.5, 0.5]
    assert dx.tolist() == [0.0, 2.0, 4.0, 8.0, 16.0, 0.0, 0.0]
    assert ds.item() == pytest.approx(-0.2 * 4 - 0.4 * 8 + 3 * 32 + 3 * 64, rel=1e-6)  # 0 at the bounds and below n
    assert db.item() == 1 + 32 + 64


def test_one_bit_has_the_levels_beta_and_beta_plus_s():
    x = torch.tensor([-9.0, 0.9, 1.1, 9.0])
    out, dx, ds, db = _run(x, torch.tensor(2.0), torch.tensor(0.0), 1, torch.ones(4))
    assert out.tolist() == [0.0, 0.0, 2.0, 2.0]
    assert dx.tolist() == [0.0, 1.0, 1.0, 0.0]
    assert ds.item() == pytest.approx(0 + (0 - 0.45) + (1 - 0.55) + 1)
    assert db.item() == 2.0


@pytest.mark.parametrize("high", [1, 3, 255])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_interval_is_closed_and_one_step_of_the_float_beyond_is_outside(high, dtype):
    top = torch.tensor(float(high), dtype=dtype)
    above = torch.nextafter(top, torch.tensor(math.inf, dtype=dtype))
    below = torch.tensor(-2e-38, dtype=dtype)  # beyond the smallest normal float32
    x = torch.stack([torch.zeros((), dtype=dtype), top, above, below])
    _, dx, ds, db = _run(x, torch.ones((), dtype=dtype), torch.zeros((), dtype=dtype), high, torch.ones(4))
    assert dx.tolist() == [1.0, 1.0, 0.0, 0.0]
    assert ds.item() == high
    assert db.item() == 2.0


def test_offset_and_step_gradients_equal_finite_differences_where_the_codes_stand_still():
    """Outside the range the output is linear in s and beta."""
    x = torch.tensor([-9.0, -3.0, 2.0, 7.0], dtype=torch.float64)
    weights = torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.float64)
    step, offset, h = torch.tensor(0.5).double(), torch.tensor(-0.7).double(), 1e-6

    def loss(ds, db):
        return (lsq_plus_fake_quantize(x, step + ds, offset + db, quant_min=0, quant_max=3) * weights).sum().item()

    _, _, ds, db = _run(x, step, offset, 3, weights)
    assert ds.item() == pytest.approx((loss(h, 0) - loss(-h, 0)) / (2 * h), rel=1e-7)
    assert db.item() == pytest.approx((loss(0, h) - loss(0, -h)) / (2 * h), rel=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bits", BITS)
def test_with_offset_zero_it_is_unsigned_lsq(bits, dtype):
    torch.manual_seed(0)
    high, step = 2**bits - 1, torch.tensor(0.3137, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    x, grad = torch.randn(500).to(dtype) * (high + 1) * 0.3, torch.randn(500).to(dtype)
    ours = _run(x, step, torch.zeros_like(step), high, grad, 0.5)
    v, s = x.clone().requires_grad_(), step.clone().requires_grad_()
    out = lsq_fake_quantize(v, s, quant_min=0, quant_max=high, grad_scale=0.5)
    for mine, theirs in zip(ours[:3], (out, *torch.autograd.grad(out, (v, s), grad)), strict=True):
        assert torch.equal(mine, theirs)
    codes = lsq_codes(x, step, quant_min=0, quant_max=high)
    assert torch.equal(lsq_plus_codes(x, step, torch.zeros(()), quant_min=0, quant_max=high), codes)


VALUES = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=30)


@given(VALUES, st.floats(2.0**-10, 16, width=32), st.integers(-64, 64), st.integers(1, 8))
def test_the_offset_shifts_the_quantizer(values, step, shift, bits):
    x, s, high = torch.tensor(values).double(), torch.tensor(step).double(), 2**bits - 1
    options = {"quant_min": 0, "quant_max": high}
    at_zero = lsq_plus_codes(x, s, torch.zeros(()).double(), **options)
    moved = lsq_plus_codes(x + shift, s, torch.tensor(float(shift)).double(), **options)
    near_tie = ((x / s).frac().abs() - 0.5).abs() < 1e-9  # x + shift is rounded
    assert torch.equal(at_zero[~near_tie], moved[~near_tie])


@given(VALUES, st.floats(2.0**-10, 16, width=32), st.floats(-50, 50, width=32), st.integers(1, 8))
def test_values_are_codes_times_step_plus_offset(values, step, offset, bits):
    x, s, beta = torch.tensor(values), torch.tensor(step), torch.tensor(offset)
    codes = lsq_plus_codes(x, s, beta, quant_min=0, quant_max=2**bits - 1)
    assert torch.equal(codes * s + beta, lsq_plus_fake_quantize(x, s, beta, quant_min=0, quant_max=2**bits - 1))
    assert torch.equal(codes, codes.round().clamp(0, 2**bits - 1))


def test_a_negative_step_acts_as_its_magnitude_and_gets_the_opposite_gradient():
    x, grad = torch.randn(50, generator=torch.Generator().manual_seed(0)), torch.ones(50)
    positive = _run(x, torch.tensor(0.3), torch.tensor(-0.2), 3, grad)
    negative = _run(x, torch.tensor(-0.3), torch.tensor(-0.2), 3, grad)
    for place in (0, 1, 3):
        assert torch.equal(positive[place], negative[place])
    assert positive[2].item() == -negative[2].item() != 0


def test_a_zero_step_is_floored():
    out, dx, _, db = _run(torch.tensor([1.0, -1.0, 0.0]), torch.tensor(0.0), torch.tensor(0.0), 3, torch.ones(3))
    assert out.tolist() == pytest.approx([3 * MIN_STEP, 0.0, 0.0], rel=1e-6)
    assert dx.tolist() == [0.0, 0.0, 1.0]
    assert db.item() == 2.0


@pytest.mark.parametrize("step_shape", [(), (3, 1, 1), (2, 1, 4, 5)])
@pytest.mark.parametrize("offset_shape", [(), (3, 1, 1), (4, 1)])
def test_step_and_offset_may_have_any_shapes_that_broadcast(step_shape, offset_shape):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    step = torch.rand(step_shape, dtype=torch.float64) + 0.2
    offset = torch.randn(offset_shape, dtype=torch.float64)
    out, _, ds, db = _run(x, step, offset, 3, torch.ones_like(x))
    wide = [t.expand(x.shape).flatten().tolist() for t in (x, step, offset)]
    singles = [torch.tensor([v], dtype=torch.float64) for v in wide[0]]
    parts = [oracles.lsq_plus(v, s, b, 3, torch.ones(1)) for v, s, b in zip(singles, *wide[1:], strict=True)]
    full = {name: torch.stack([p[name].reshape(()) for p in parts]).reshape(x.shape) for name in ("value", "ds", "db")}
    torch.testing.assert_close(out, full["value"], rtol=0, atol=1e-12)
    torch.testing.assert_close(ds, full["ds"].sum_to_size(step_shape), rtol=0, atol=1e-12)
    torch.testing.assert_close(db, full["db"].sum_to_size(offset_shape), rtol=0, atol=0)


def test_clipped_marks_what_is_outside():
    x = torch.tensor([-0.31, -0.25, 0.0, 1.25, 1.26])
    step, offset = torch.tensor(0.5), torch.tensor(-0.25)
    assert lsq_plus_clipped(x, step, offset, quant_min=0, quant_max=3).tolist() == [True, False, False, False, True]


def test_gradients_of_half_inputs_are_summed_in_float32():
    x = torch.full((4096,), 3.0).bfloat16().requires_grad_()
    step, offset = torch.tensor(1.0, requires_grad=True), torch.tensor(-1.0, requires_grad=True)
    out = lsq_plus_fake_quantize(x, step, offset, quant_min=0, quant_max=1)
    out.sum().backward()
    assert out.dtype == x.grad.dtype == torch.bfloat16
    assert (step.grad.item(), offset.grad.item()) == (4096.0, 4096.0)  # a bf16 sum stops at 256


def test_only_the_input_and_the_range_are_kept_for_backward():
    x = torch.randn(16, 32, 32, requires_grad=True)
    step, offset = torch.tensor(0.3, requires_grad=True), torch.tensor(-0.1, requires_grad=True)
    kept = []
    with saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        lsq_plus_fake_quantize(x, step, offset, quant_min=0, quant_max=15)
    assert sorted(t.data_ptr() for t in kept) == sorted(t.data_ptr() for t in (x, step, offset))


@pytest.mark.parametrize("shape", [(40,), (6, 5, 2)])
def test_initial_step_of_weights_by_hand(shape):
    w = torch.randn(*shape, dtype=torch.float64) * 0.3 - 0.1
    mean = math.fsum(w.flatten().tolist()) / w.numel()
    sigma = math.sqrt(math.fsum((v - mean) ** 2 for v in w.flatten().tolist()) / w.numel())
    for bits in (2, 4, 8):
        expected = max(abs(mean - 3 * sigma), abs(mean + 3 * sigma)) / 2 ** (bits - 1)
        assert lsq_plus_initial_step(w, bits).item() == pytest.approx(expected, rel=1e-12)
    if w.ndim > 1:
        rows = lsq_plus_initial_step(w, 4, axes=(1, 2)).tolist()
        assert rows == pytest.approx([lsq_plus_initial_step(row, 4).item() for row in w], rel=1e-12)


def test_initial_step_of_equal_or_zero_weights_is_positive():
    assert lsq_plus_initial_step(torch.full((4, 1), -0.5), 2, axes=(1,)).tolist() == [0.25] * 4
    assert lsq_plus_initial_step(torch.zeros(3), 4).item() == pytest.approx(MIN_STEP)
    assert lsq_plus_initial_step(torch.ones(3).half(), 4).dtype == torch.float32


def _integer_by_autograd(x, step, offset, high, grad):
    """LSQ+ with an integer zero point as a chain of plain operations: rounding is straight-through, clamping is not."""
    leaves = [t.double().clone().requires_grad_() for t in (x, step, offset)]
    x, step, offset = leaves

    def rounded(t):
        return t + (t.round() - t).detach()

    zero = rounded(-offset / step)
    zero = zero.clamp(0, high) if bool((zero < 0) | (zero > high)) else zero
    scaled = x / step
    low_bound, high_bound = 0 - zero, high - zero
    # As in LSQ: the bounds count as inside, and a value in the half step beyond them as clipped.
    codes = torch.where(scaled < low_bound, low_bound, torch.where(scaled > high_bound, high_bound, rounded(scaled)))
    out = codes * step
    return out.detach(), *torch.autograd.grad(out, leaves, grad.double(), allow_unused=True)


@pytest.mark.parametrize("offset", [0.0, -0.375, -0.26, -1.0, 2.5, -40.0])
@pytest.mark.parametrize("bits", BITS)
def test_integer_zero_points_equal_a_chain_of_plain_operations(bits, offset):
    torch.manual_seed(bits)
    high, step = 2**bits - 1, 0.25
    zero = min(max(round(-offset / step), 0), high)
    edges = (torch.tensor(_edge_ratios(high), dtype=torch.float64) - zero) * step
    x = torch.cat([edges, torch.randn(80, dtype=torch.float64) * (high + 1) * step]).reshape(3, -1)
    grad = torch.randn_like(x)
    leaves = [t.requires_grad_() for t in (x.clone(), torch.tensor(step).double(), torch.tensor(offset).double())]
    out = lsq_plus_fake_quantize(*leaves, quant_min=0, quant_max=high, grad_scale=0.125, integer=True)
    found = torch.autograd.grad(out, leaves, grad)
    expected, dx, ds, db = _integer_by_autograd(x, leaves[1].detach(), leaves[2].detach(), high, grad)
    assert torch.equal(out, expected)
    torch.testing.assert_close(found[0], dx)
    torch.testing.assert_close(found[1], 0.125 * ds)
    torch.testing.assert_close(found[2], 0.125 * (torch.zeros(()).double() if db is None else db))
    codes = lsq_plus_codes(x, leaves[1], leaves[2], quant_min=0, quant_max=high, integer=True)
    assert torch.equal(codes, ((x / step).round() + zero).clamp(0, high))  # QuantizeLinear
    assert torch.equal((codes - zero) * step, out)
    local_step, local_offset = lsq_plus_local_gradients(
        x, leaves[1].detach(), leaves[2].detach(), quant_min=0, quant_max=high, integer=True
    )
    torch.testing.assert_close((local_step * grad).sum() * 0.125, found[1])
    torch.testing.assert_close((local_offset * grad).sum() * 0.125, found[2])


def test_a_zero_is_exact_with_an_integer_zero_point_alone():
    step, offset = torch.tensor(0.3), torch.tensor(-0.4)
    for integer, value in ((True, 0.0), (False, -0.1)):
        out = lsq_plus_fake_quantize(torch.zeros(1), step, offset, quant_min=0, quant_max=3, integer=integer)
        assert out.item() == pytest.approx(value, abs=1e-6)


def test_a_clamped_zero_point_is_the_unsigned_grid():
    x = torch.tensor([-1.0, 0.2, 0.6, 9.0])
    step, offset = torch.tensor(0.5), torch.tensor(0.7)
    out = lsq_plus_fake_quantize(x, step, offset, quant_min=0, quant_max=3, integer=True)
    assert torch.equal(out, lsq_fake_quantize(x, step, quant_min=0, quant_max=3))
    assert zero_point(step, offset, quant_min=0, quant_max=3).item() == 0.0
    clipped = lsq_plus_clipped(x, step, offset, quant_min=0, quant_max=3, integer=True)
    assert clipped.tolist() == [True, False, False, True]
