"""Paired bootstrap over images: the part of a difference between models that may be due to the choice of images.

Every model is measured on the same resampled images, so an image that is hard for both cancels out. The same
resamples serve all conditions, since each corruption is shown on the same photographs: means over conditions get
intervals too.
What it does not cover is another training run: that is what several seeds are for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qreg_yolo.errors import AnalysisError
from qreg_yolo.metrics.average_precision import METRICS as PRECISIONS
from qreg_yolo.metrics.average_precision import Array, mean_average_precision
from qreg_yolo.metrics.image_statistics import ImageStatistics, PerImage
from qreg_yolo.metrics.predictions import ACCURACIES, ImagePredictions, accuracy

RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A confidence interval, in the unit of its metric."""

    lo: float
    hi: float

    @property
    def has_zero(self) -> bool:
        """Whether it contains 0, so the sign of the difference is undecided."""
        return self.lo <= 0 <= self.hi


def resample_weights(n_images: int, resamples: int = RESAMPLES, seed: int = 0) -> NDArray[np.int64]:
    """Returns the number of draws of each image, `(images, resamples)`: each column sums to ``n_images``.

    Args:
        n_images: Images to draw from, with replacement.
        resamples: How many times.
        seed: Same seed, same draws: all that is to be compared pairwise has to share them.

    >>> resample_weights(5, 2).sum(axis=0)
    array([5, 5])
    """
    draws = np.random.default_rng(seed).integers(n_images, size=(resamples, n_images))
    flat = draws + np.arange(resamples)[:, None] * n_images
    return np.bincount(flat.ravel(), minlength=resamples * n_images).reshape(resamples, n_images).T.copy()


def interval(values: Array, level: float = LEVEL) -> Interval:
    """Returns the percentile interval of resampled values, `(resamples,)`; nan where none of them is defined.

    A resample whose images show no object has no mAP, is nan, and does not count.

    Args:
        values: One value per resample.
        level: Share of them inside, 0..1.
    """
    values = values[~np.isnan(values)]
    if not len(values):
        return Interval(math.nan, math.nan)
    lo, hi = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(lo), float(hi))


def paired_difference(
    statistics: PerImage,
    baseline: PerImage,
    metric: str = "map50_95",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Returns the 95 % interval of a metric's difference, statistics - baseline, as a fraction (-1..1).

    Raises:
        AnalysisError: They were not measured on the same images and labels.
    """
    check_same_images(statistics, baseline, "the model", "its baseline")
    weights = resample_weights(len(statistics.names), resamples, seed)
    mine = metric_values(statistics, metric, weights)
    return interval(mine - metric_values(baseline, metric, weights))


def check_same_images(one: PerImage, other: PerImage, name: str, other_name: str) -> None:
    """Raises where two sets of statistics cannot be compared image by image.

    Raises:
        AnalysisError: Other images, another order of them, or other labels.
    """
    if not np.array_equal(one.names, other.names):
        raise AnalysisError(f"{name} and {other_name} were measured on different images. Measure both on the same.")
    if not np.array_equal(one.targets, other.targets):
        changed = "the number of classes"
        if one.targets.shape == other.targets.shape:
            differs = (one.targets != other.targets).reshape(len(one.names), -1).any(1)
            changed = f"image '{one.names[differs.argmax()]}'"
        raise AnalysisError(
            f"{name} and {other_name} were measured with different labels ({changed}). Measure both again."
        )


@dataclass(frozen=True)
class _Kind:
    """One kind of per-image statistics."""

    metrics: tuple[str, ...]
    """Metrics that are computed from them."""
    compute: Callable[..., Array]
    """(statistics, weights, metric) -> fractions, one per resample."""


_KINDS: Mapping[type, _Kind] = {
    ImageStatistics: _Kind(tuple(PRECISIONS), mean_average_precision),
    ImagePredictions: _Kind(ACCURACIES, accuracy),
}
RESAMPLED: tuple[str, ...] = tuple(metric for kind in _KINDS.values() for metric in kind.metrics)
"""Every metric that has a bootstrap."""


def metrics_of(statistics: PerImage) -> tuple[str, ...]:
    """Returns the metrics that the statistics give."""
    return _KINDS[type(statistics)].metrics


def metric_values(statistics: PerImage, metric: str, weights: NDArray[np.integer[Any]] | None = None) -> Array:
    """Returns a metric (fraction) for each column of weights, `(resamples,)`.

    Args:
        statistics: Of a detector or of a classifier.
        metric: One of `metrics_of`.
        weights: `(images, resamples)`: how often each resample contains each image; None: each once, one resample.
    """
    return _KINDS[type(statistics)].compute(statistics, weights, metric)
