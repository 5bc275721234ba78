"""The paired bootstrap: exact where it must be, and as wide as it says."""

from __future__ import annotations

import numpy as np
import pytest

from qreg_yolo.errors import AnalysisError
from qreg_yolo.metrics.average_precision import mean_average_precision
from qreg_yolo.metrics.bootstrap import Interval, check_same_images, interval, paired_difference, resample_weights
from qreg_yolo.metrics.image_statistics import ImageStatistics
from tests.metrics.synthetic_detections import simulated


def pair(rng: np.random.Generator, n_images: int, skills: tuple[float, float]) -> tuple[ImageStatistics, ...]:
    """Returns two models on the same images: same objects, and what is hard for one is hard for the other."""
    targets = rng.poisson(1.0, (n_images, 3))
    difficulty = rng.normal(size=n_images)
    return tuple(simulated(rng, n_images, 3, skill, 2.0, difficulty, targets) for skill in skills)


def coverage(rounds: int, n_images: int, resamples: int, skills: tuple[float, float]) -> float:
    """Returns the share of simulated studies whose 95 % interval holds the difference on all images there could be."""
    large = [pair(np.random.default_rng(1_000_000 + seed), 2000, skills) for seed in range(20)]
    truth = np.mean([mean_average_precision(one)[0] - mean_average_precision(other)[0] for one, other in large])
    hits = 0
    for seed in range(rounds):
        found = paired_difference(*pair(np.random.default_rng(seed), n_images, skills), resamples=resamples, seed=seed)
        hits += found.lo <= truth <= found.hi
    return hits / rounds


def test_a_model_against_itself_is_exactly_zero() -> None:
    one = simulated(np.random.default_rng(0))
    assert paired_difference(one, one) == Interval(0.0, 0.0)
    assert paired_difference(one, one).has_zero


def test_unit_weights_reproduce_the_value_exactly() -> None:
    one = simulated(np.random.default_rng(0))
    for metric in ("map50", "map50_95"):
        many = mean_average_precision(one, np.ones((60, 7), int), metric)
        assert many.tolist() == [mean_average_precision(one, metric=metric)[0]] * 7


def test_weights_are_draws_with_replacement() -> None:
    weights = resample_weights(300, 2000)
    assert (weights.sum(0) == 300).all()
    assert weights.mean(1) == pytest.approx(np.ones(300), abs=6 / np.sqrt(2000))
    assert weights.var() == pytest.approx(1 - 1 / 300, rel=0.01)  # binomial(300, 1/300)
    assert np.array_equal(weights, resample_weights(300, 2000))
    assert not np.array_equal(weights, resample_weights(300, 2000, seed=1))


def test_pairing_narrows_the_interval() -> None:
    one, other = pair(np.random.default_rng(0), 200, (1.0, 0.9))
    apart = interval(
        mean_average_precision(one, resample_weights(200))
        - mean_average_precision(other, resample_weights(200, seed=1))
    )
    paired = paired_difference(one, other)
    assert paired.hi - paired.lo < 0.9 * (apart.hi - apart.lo)


def test_interval_ends_are_the_quantiles() -> None:
    found = interval(np.arange(1001.0))
    assert (found.lo, found.hi) == pytest.approx((25, 975))


def test_resamples_without_objects_do_not_count() -> None:
    assert interval(np.array([np.nan, 1.0, 2.0, np.nan, 3.0]), 0.0) == Interval(2.0, 2.0)
    assert np.isnan([interval(np.full(3, np.nan)).lo, interval(np.full(3, np.nan)).hi]).all()
    rng = np.random.default_rng(0)
    empty = simulated(rng, 6, 2, 1.0, 1.0, np.zeros(6), np.zeros((6, 2), int))
    found = paired_difference(empty, empty)
    assert np.isnan([found.lo, found.hi]).all(), "an interval [0, 0] of nothing"


def test_other_images_or_labels_cannot_be_compared() -> None:
    one, other = pair(np.random.default_rng(0), 20, (1.0, 1.0))
    check_same_images(one, other, "a", "b")
    renamed = ImageStatistics(**{**vars(other), "names": other.names[::-1]})
    with pytest.raises(AnalysisError, match="a and b were measured on different images"):
        check_same_images(one, renamed, "a", "b")
    targets = other.targets.copy()
    targets[7, 0] += 1
    with pytest.raises(AnalysisError, match=r"different labels \(image 'images/000007.jpg'\)"):
        check_same_images(one, ImageStatistics(**{**vars(other), "targets": targets}), "a", "b")


@pytest.mark.slow
@pytest.mark.parametrize("skills", [(1.0, 1.0), (1.0, 0.6)])
def test_95_percent_intervals_cover_93_to_97_percent(skills: tuple[float, float]) -> None:
    assert 0.93 <= coverage(1000, 300, 1000, skills) <= 0.97
