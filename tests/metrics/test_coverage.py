"""Coverage of the 95 % interval: two unequal detectors whose mAP on all images is known."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from qreg_yolo.metrics.average_precision import mean_average_precision
from qreg_yolo.metrics.bootstrap import paired_difference
from tests.metrics.synthetic_detectors import plain_map, study

POPULATION = 50_000
"""Images: 250 times those of a study, so that what the truth is off by is an eighth of an interval's half width."""


@lru_cache(maxsize=1)
def truth() -> float:
    good, poor = study(np.random.default_rng(1_000_000), POPULATION)
    return plain_map(poor) - plain_map(good)


def coverage(rounds: int, n_images: int, resamples: int) -> float:
    """Returns the share of simulated studies whose interval holds the truth."""
    hits = 0
    for seed in range(rounds):
        good, poor = study(np.random.default_rng(seed), n_images)
        found = paired_difference(poor, good, resamples=resamples, seed=seed)
        hits += found.lo <= truth() <= found.hi
    return hits / rounds


def test_the_two_differ_and_the_large_sample_is_summed_right() -> None:
    for one in study(np.random.default_rng(0), 3000):
        assert plain_map(one) == pytest.approx(mean_average_precision(one)[0], abs=1e-3)
    assert -0.3 < truth() < -0.05
    assert not paired_difference(*study(np.random.default_rng(0), 200), resamples=200).has_zero


def test_intervals_cover_about_as_often_as_they_say() -> None:
    assert 0.86 <= coverage(60, 100, 100) <= 1.0  # binomial: 95 % - 3 standard deviations of 2.8 %


@pytest.mark.slow
def test_95_percent_intervals_cover_93_to_97_percent() -> None:
    """1000 rounds: one binomial standard deviation is 0.7 %."""
    assert 0.93 <= coverage(1000, 200, 500) <= 0.97
