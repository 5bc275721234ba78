"""Average precision as Ultralytics computes it, for many weightings of the images at once.

A bootstrap resample is a set of images with repetitions, that is: a weight per image. Three facts make
a thousand of them cheap. The order of the detections does not depend on the weights, so it is sorted once. The
interpolated precision changes at true positives only, of which there are at most as many as objects, whereas
detections are hundreds per image. And the number of detections above a true positive is linear in the weights: one
matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qreg_yolo.metrics.image_statistics import THRESHOLDS, ImageStatistics
from qreg_yolo.metrics.predictions import whole_product

METRICS: dict[str, tuple[int, ...]] = {"map50": (0,), "map50_95": tuple(range(THRESHOLDS))}
"""Metric of the records -> the IoU thresholds that it is the mean over."""
Array = NDArray[np.float64]

_RECALLS = np.linspace(0, 1, 101)
"""Recalls at which Ultralytics (and COCO) samples the precision-recall curve."""
_STEPS = np.diff(_RECALLS)
_AREAS = np.concatenate([[0.0], np.cumsum(np.append(_STEPS, 0) / 2 + np.insert(_STEPS, 0, 0) / 2)])
"""Area, by the trapezoidal rule, under the first n samples of a curve that is 1."""
_CHUNK = 256
"""Resamples at a time: the arrays of one class stay in the processor's cache."""


def mean_average_precision(
    statistics: ImageStatistics, weights: NDArray[np.integer[Any]] | None = None, metric: str = "map50_95"
) -> Array:
    """Returns mAP (0..1) for each column of weights, `(resamples,)`: the mean over classes that have objects.

    As in Ultralytics, a class without objects does not count; a set without any object has no mAP: nan.

    Args:
        statistics: Detections and objects.
        weights: `(images, resamples)`: how often each resample contains each image; None: each once, one resample.
        metric: ``map50`` or ``map50_95``.
    """
    return mean_over_classes(class_average_precision(statistics, weights, metric))


def class_average_precision(
    statistics: ImageStatistics, weights: NDArray[np.integer[Any]] | None = None, metric: str = "map50_95"
) -> Array:
    """Returns the average precision (0..1) of each class, `(classes, resamples)`; nan without an object of it.

    Args:
        statistics: Detections and objects.
        weights: As in `mean_average_precision`.
        metric: Likewise.
    """
    if weights is None:
        weights = np.ones((len(statistics.names), 1), np.int64)
    thresholds = METRICS[metric]
    found = np.full((statistics.targets.shape[1], weights.shape[1]), np.nan)
    for category in np.flatnonzero(statistics.targets.any(0)):
        found[category] = _sum_rows(average_precision(statistics, int(category), weights, thresholds)) / len(thresholds)
    return found


def mean_over_classes(precisions: Array) -> Array:
    """Returns the mean of `(classes, resamples)` over the classes that are not nan, `(resamples,)`; nan without any."""
    total, present = np.zeros(precisions.shape[1]), np.zeros(precisions.shape[1])
    for row in precisions:
        there = ~np.isnan(row)
        total[there] += row[there]
        present += there
    return np.where(present > 0, total / np.maximum(present, 1), np.nan)


def average_precision(
    statistics: ImageStatistics,
    category: int,
    weights: NDArray[np.integer[Any]],
    thresholds: Sequence[int] = METRICS["map50_95"],
) -> Array:
    """Returns the average precision of one class, `(thresholds, resamples)`; nan where no image shows an object of it.

    Ultralytics' rule (``compute_ap``): precision is replaced by the largest at this or any higher recall, sampled at
    101 recalls, and integrated by the trapezoidal rule; beyond the highest recall it is 0. Between two true positives
    that curve is flat, which is why it suffices to look at them; a sample at exactly the recall of one belongs to the
    next.

    Args:
        statistics: Detections and objects.
        category: The class.
        weights: `(images, resamples)`: how often each resample contains each image.
        thresholds: IoU thresholds, 0..9.
    """
    position = np.flatnonzero(statistics.category == category)
    image, hits = statistics.image[position], statistics.hits[position]
    positive = np.flatnonzero(hits)
    seen, column = np.unique(image, return_inverse=True)
    above = _detections_above(column, positive, len(seen))
    highest = len(image) * int(weights.max(initial=1))
    result = np.empty((len(thresholds), weights.shape[1]))
    for start in range(0, weights.shape[1], _CHUNK):
        part = weights[:, start : start + _CHUNK]
        ranks = np.maximum(whole_product(above, part[seen], highest), 1)  # 0 where no copy of those images is there
        objects = (statistics.targets[:, category] @ part).astype(np.float64)
        objects[objects == 0] = np.nan
        for row, threshold in enumerate(thresholds):
            chosen = (hits[positive] >> threshold & 1).astype(bool)
            found = np.cumsum(part[image[positive[chosen]]], axis=0, dtype=np.float64)
            result[row, start : start + _CHUNK] = _area(found, ranks[chosen], objects)
    return result


def _detections_above(image: NDArray[np.intp], positive: NDArray[np.intp], n_images: int) -> NDArray[np.int64]:
    """Counts the detections of each image that rank at or above each true positive: `(positives, images)`.

    Args:
        image: `(detections,)`: image of each detection of one class, the most confident first.
        positive: Ranks (from 0) of the true positives.
        n_images: Number of images.
    """
    first = np.searchsorted(positive, np.arange(len(image)))  # the first true positive at or below each detection
    counts = np.bincount(first * n_images + image, minlength=(len(positive) + 1) * n_images)
    return counts.reshape(len(positive) + 1, n_images)[:-1].cumsum(0)


def _area(found: Array, ranks: NDArray[np.floating[Any]], objects: Array) -> Array:
    """Returns the area under the precision-recall curve, `(resamples,)`.

    Args:
        found: `(positives, resamples)`: true positives at or above each true positive.
        ranks: Likewise: detections at or above it.
        objects: `(resamples,)`: number of objects; nan for none.
    """
    precision = found / ranks
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    samples = np.searchsorted(_RECALLS, found / objects)  # nan sorts behind everything
    areas = _AREAS[np.minimum(samples, len(_RECALLS))]
    return np.where(np.isnan(objects), np.nan, _sum_rows(envelope * np.diff(areas, axis=0, prepend=0.0)))


def _sum_rows(rows: Array) -> Array:
    """Returns the sum of the rows, added in order: NumPy's own order of summation depends on the number of columns."""
    return np.cumsum(rows, axis=0)[-1] if len(rows) else np.zeros(rows.shape[1])
