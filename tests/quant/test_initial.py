"""Initial ranges against brute force and NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from qreg_yolo.quant.functional import MIN_STEP, grid_bounds, lsq_codes, lsq_plus_codes
from qreg_yolo.quant.functional.initial import PERCENTILE, initial_range, initial_step

SHAPES = {
    "normal": lambda: torch.randn(3000),
    "laplace": lambda: torch.distributions.Laplace(0.0, 1.0).sample((3000,)),
    "uniform": lambda: torch.rand(3000) - 0.3,
    "silu": lambda: F.silu(2.0 * torch.randn(3000)),
    "relu": lambda: F.relu(torch.randn(3000)),
    "outlier": lambda: torch.cat([torch.randn(3000), torch.tensor([60.0])]),
    "far from 0": lambda: 5.0 + torch.rand(3000),
}


def squared_error(x, step, quant_min, quant_max, zero=0):
    codes = (x.double() / step).round().clamp(quant_min - zero, quant_max - zero)
    return float((codes * step - x).square().sum())


def least_error(x, quant_min, quant_max, zero=0, count=4000):
    low, high = quant_min - zero, quant_max - zero
    widest = max(float(x.max()) / high if high > 0 else 0.0, float(x.min()) / low if low < 0 else 0.0)
    return min(squared_error(x, widest * k / count, quant_min, quant_max, zero) for k in range(20, count + 1))


@pytest.fixture(params=SHAPES)
def values(request):
    torch.manual_seed(3)
    return SHAPES[request.param]()


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_error_is_that_of_a_dense_search(values, bits, signed):
    quant_min, quant_max = grid_bounds(bits, signed=signed)
    step = initial_step(values[None], "mse", quant_min=quant_min, quant_max=quant_max)
    assert step.shape == (1,)
    found = squared_error(values, float(step), quant_min, quant_max)
    assert found <= 1.02 * least_error(values, quant_min, quant_max)


def test_the_two_codes_of_one_bit_have_the_mean_magnitude():
    x = torch.tensor([[-3.0, 1.0, 2.0]])
    assert initial_step(x, "mse", quant_min=-1, quant_max=1, binary=True).tolist() == [2.0]


@pytest.mark.parametrize("init", ["mse", "minmax", "percentile"])
def test_each_group_has_its_own_step(init):
    torch.manual_seed(0)
    x = torch.randn(5, 400) * torch.tensor([0.01, 0.1, 1.0, 10.0, 100.0])[:, None]
    together = initial_step(x, init, quant_min=-8, quant_max=7)
    apart = torch.cat([initial_step(row[None], init, quant_min=-8, quant_max=7) for row in x])
    torch.testing.assert_close(together, apart)


def test_extremes_and_percentiles_are_numpys():
    torch.manual_seed(1)
    x = torch.randn(2, 30011)
    x[:, 5], x[:, 6] = -40.0, 50.0
    for init, low, high in (
        ("minmax", x.numpy().min(1), x.numpy().max(1)),
        ("percentile", *np.percentile(x.numpy(), [100 - PERCENTILE, PERCENTILE], axis=1)),
    ):
        step = initial_step(x, init, quant_min=-8, quant_max=7)
        torch.testing.assert_close(step, torch.tensor(np.maximum(high / 7, low / -8), dtype=torch.float32))
        single_step, offset = initial_range(x[0], init, quant_min=0, quant_max=15)
        assert float(single_step) == pytest.approx((high[0] - low[0]) / 15, rel=1e-5)
        assert float(offset) == pytest.approx(low[0], rel=1e-5)


@pytest.mark.parametrize("init", ["mse", "minmax", "percentile"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_an_integer_zero_point_is_a_code(values, bits, init):
    high = 2**bits - 1
    step, offset = initial_range(values, init, quant_min=0, quant_max=high, integer=True)
    zero = -float(offset) / float(step)
    assert zero == pytest.approx(round(zero), abs=1e-4)
    assert -0.5 < zero < high + 0.5
    codes = lsq_plus_codes(torch.zeros(1), step, offset, quant_min=0, quant_max=high, integer=True)
    assert codes.item() == round(zero)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_the_integer_range_is_as_good_as_every_zero_point(values, bits):
    high = 2**bits - 1
    step, offset = initial_range(values, "mse", quant_min=0, quant_max=high, integer=True)
    found = squared_error(values, float(step), 0, high, round(-float(offset / step)))
    best = min(least_error(values, 0, high, zero, count=400) for zero in range(high + 1))
    assert found <= 1.02 * best


def test_step_and_offset_together_beat_each_alone():
    torch.manual_seed(0)
    x = F.silu(2.0 * torch.randn(5000))
    step, offset = initial_range(x, "mse", quant_min=0, quant_max=15)
    codes = lsq_plus_codes(x, step, offset, quant_min=0, quant_max=15)
    error = float((codes * step + offset - x).square().sum())
    for quant_min, quant_max in ((0, 15), (-8, 7)):
        symmetric = initial_step(x[None], "mse", quant_min=quant_min, quant_max=quant_max)
        codes = lsq_codes(x, symmetric, quant_min=quant_min, quant_max=quant_max)
        assert error < 0.9 * float((codes * symmetric - x).square().sum())


@pytest.mark.parametrize("init", ["mse", "minmax", "percentile"])
def test_values_without_extent_have_a_usable_range(init):
    zeros = torch.zeros(1, 10)
    assert initial_step(zeros, init, quant_min=-8, quant_max=7).tolist() == [pytest.approx(MIN_STEP)]
    for value in (0.0, 3.0, -3.0):
        for integer in (False, True):
            x = torch.full((10,), value)
            step, offset = initial_range(x, init, quant_min=0, quant_max=15, integer=integer)
            codes = lsq_plus_codes(x, step, offset, quant_min=0, quant_max=15, integer=integer)
            assert math.isfinite(float(step))
            assert float(codes[0] * step + offset) == pytest.approx(value, abs=1e-6)
