"""What per-image files can be turned into: the metrics of a detector's and of a classifier's, one call for both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qreg_yolo.metrics.average_precision import METRICS as PRECISIONS
from qreg_yolo.metrics.average_precision import mean_average_precision
from qreg_yolo.metrics.image_statistics import ImageStatistics, PerImage
from qreg_yolo.metrics.predictions import ACCURACIES, ImageAnswers, accuracy

Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Kind:
    """One kind of per-image statistics."""

    metrics: tuple[str, ...]
    """What they give."""
    compute: Callable[..., Array]
    """(statistics, weights, metric) -> fractions, one per resample."""


_KINDS: Mapping[type, _Kind] = {
    ImageStatistics: _Kind(tuple(PRECISIONS), mean_average_precision),
    ImageAnswers: _Kind(ACCURACIES, accuracy),
}
RESAMPLED: tuple[str, ...] = tuple(metric for kind in _KINDS.values() for metric in kind.metrics)
"""Every metric that has a bootstrap."""
DEFAULT_METRICS: Mapping[str, str] = {"detect": "map50_95", "classify": "accuracy_top1"}
"""Track of the records -> the metric that is compared unless another is asked for."""


def metrics_of(statistics: PerImage) -> tuple[str, ...]:
    """Returns the metrics that the statistics give."""
    return _KINDS[type(statistics)].metrics


def metric_values(statistics: PerImage, metric: str, weights: NDArray[np.integer[Any]] | None = None) -> Array:
    """Returns a metric (fraction) for each column of weights, `(resamples,)`.

    Args:
        statistics: Of a detector or of a classifier.
        metric: One of `metrics_of`.
        weights: `(images, resamples)`: how often each image stands in each resample; None: each once, one resample.
    """
    return _KINDS[type(statistics)].compute(statistics, weights, metric)
