"""Confidence intervals without NumPy."""

from __future__ import annotations

import math
import random

import pytest

from qreg_yolo.noise.intervals import Interval, finite, mean_interval, t_quantile


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.7062), (2, 4.30265), (3, 3.18245), (5, 2.57058), (15, 2.13145), (127, 1.97882)]
)
def test_students_quantiles(freedom: int, quantile: float) -> None:
    assert t_quantile(freedom) == pytest.approx(quantile, rel=2e-3)


def test_intervals_hold_the_mean_nineteen_times_in_twenty() -> None:
    rng = random.Random(0)
    rounds = 2000
    hits = 0
    for _ in range(rounds):
        found = mean_interval([rng.gauss(3.0, 2.0) for _ in range(6)])
        hits += found.lo <= 3.0 <= found.hi
    assert 0.935 < hits / rounds < 0.965


def test_a_single_value_has_no_interval() -> None:
    found = mean_interval([2.0])
    assert found.value == 2.0
    assert math.isnan(found.lo)
    assert found.to_dict() == {"value": 2.0, "lo": None, "hi": None}
    assert Interval(1.0, 0.5, 1.5).to_dict() == {"value": 1.0, "lo": 0.5, "hi": 1.5}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_has_no_mean(value: float) -> None:
    assert mean_interval([1.0, value, 2.0]).to_dict() == {"value": None, "lo": None, "hi": None}
    assert mean_interval([value]).to_dict()["value"] is None
    assert finite(value) is None
    assert finite(0.0) == 0
