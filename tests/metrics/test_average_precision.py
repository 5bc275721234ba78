"""Average precision equals Ultralytics', for each set of images that a resample stands for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qreg_yolo.metrics.average_precision import METRICS, average_precision, mean_average_precision
from qreg_yolo.metrics.bootstrap import resample_weights
from qreg_yolo.metrics.image_statistics import ImageStatistics, from_detections
from tests.metrics.synthetic_detections import simulated, unpacked


def host_precision(statistics: ImageStatistics, times: np.ndarray | None = None) -> np.ndarray:
    """Returns Ultralytics' average precisions, `(classes, 10)`, image i standing ``times[i]`` times in the set."""
    from ultralytics.utils.metrics import ap_per_class

    times = np.ones(len(statistics.names), int) if times is None else times
    copies = np.repeat(np.arange(len(statistics.image)), times[statistics.image])
    target = np.repeat(np.arange(statistics.targets.shape[1]), times @ statistics.targets)
    confidence = statistics.confidence[copies].astype(np.float64) - 1e-12 * np.arange(len(copies))  # no ties to sort
    return ap_per_class(unpacked(statistics)[copies], confidence, statistics.category[copies], target)[5]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.ultralytics
def test_it_equals_the_host_on_every_class_and_threshold(seed: int) -> None:
    rng = np.random.default_rng(seed)
    statistics = simulated(rng, n_images=20 + 20 * seed, n_classes=1 + seed, skill=seed - 3.0)
    ones = np.ones((len(statistics.names), 1), int)
    classes = np.flatnonzero(statistics.targets.any(0))
    ours = np.stack([average_precision(statistics, int(c), ones)[:, 0] for c in classes])
    expected = host_precision(statistics)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-9)
    for metric, thresholds in METRICS.items():
        value = mean_average_precision(statistics, metric=metric)
        np.testing.assert_allclose(value, expected[:, list(thresholds)].mean(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.ultralytics
def test_weights_equal_the_host_on_a_set_with_the_images_repeated(seed: int) -> None:
    statistics = simulated(np.random.default_rng(seed), n_images=30, n_classes=5)
    weights = resample_weights(30, 12, seed)
    ours = mean_average_precision(statistics, weights)
    expected = [host_precision(statistics, times).mean() for times in weights.T]
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 3), st.integers(0, 3))
@pytest.mark.ultralytics
def test_small_sets_equal_the_host(seed: int, n_images: int, n_classes: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    statistics = simulated(rng, n_images, n_classes, skill=rng.normal(), false_per_image=rng.exponential(2))
    times = rng.integers(most + 1, size=n_images)
    expected = host_precision(statistics, times)
    ours = mean_average_precision(statistics, times[:, None])
    np.testing.assert_allclose(ours, expected.mean() if expected.size else np.nan, rtol=0, atol=1e-9)


def one_class(correct: list[bool], n_objects: int) -> ImageStatistics:
    """Returns detections of one class in one image, ranked as listed, alike at all thresholds."""
    n = len(correct)
    hits = np.repeat(np.array(correct, bool)[:, None], 10, axis=1)
    return from_detections(np.linspace(0.9, 0.1, n), np.zeros(n), np.zeros(n), hits, [[n_objects]], ["a"])


@pytest.mark.parametrize(
    ("correct", "n_objects", "expected"),
    [
        ([True], 1, 0.995),  # 100 steps of 0.01 under 1, the last one down to 0
        ([False], 1, 0.0),
        ([], 3, 0.0),
        ([True], 2, 0.495),  # recall 0.5: samples 0..49 count
        ([False, True], 1, 0.4975),  # precision 1/2 up to recall 1
        ([True, False, True], 2, 0.01 * (49.5 + 50 * 2 / 3)),
    ],
)
def test_by_hand(correct: list[bool], n_objects: int, expected: float) -> None:
    assert mean_average_precision(one_class(correct, n_objects))[0] == pytest.approx(expected, abs=1e-12)


def test_a_set_without_objects_is_zero_and_a_class_without_objects_does_not_count() -> None:
    assert np.isnan(mean_average_precision(one_class([False], 0))).all(), "without objects there is nothing to find"
    both = from_detections([0.9, 0.8], [0, 1], [0, 0], np.ones((2, 10)) * [[1], [0]], [[1, 0]], ["a"])
    assert mean_average_precision(both)[0] == pytest.approx(0.995)


def test_it_does_not_depend_on_how_many_resamples_are_computed_at_a_time() -> None:
    statistics = simulated(np.random.default_rng(0))
    weights = resample_weights(60, 600)
    alone = [mean_average_precision(statistics, weights[:, [column]])[0] for column in (0, 255, 256, 599)]
    assert mean_average_precision(statistics, weights)[[0, 255, 256, 599]].tolist() == alone


def test_equal_confidences_rank_as_they_come() -> None:
    first = from_detections([0.5, 0.5], [0, 0], [0, 0], np.eye(2, 10) > 2, [[1]], ["a"])
    assert first.hits.tolist() == [0, 0]
    right = from_detections([0.5, 0.5], [0, 0], [0, 0], [[True] * 10, [False] * 10], [[1]], ["a"])
    wrong = from_detections([0.5, 0.5], [0, 0], [0, 0], [[False] * 10, [True] * 10], [[1]], ["a"])
    assert mean_average_precision(right)[0] == pytest.approx(0.995)
    assert mean_average_precision(wrong)[0] == pytest.approx(0.4975)
