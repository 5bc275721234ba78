"""From detections to numbers: per-image statistics and metrics of one cell."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from ultralytics.utils.metrics import DetMetrics

from qreg_yolo.detect.data_check import ImageSet
from qreg_yolo.detect.robust.models import Candidate, Detections
from qreg_yolo.io import records
from qreg_yolo.metrics import image_statistics
from qreg_yolo.metrics.average_precision import METRICS, mean_average_precision
from qreg_yolo.metrics.conditions import Condition
from qreg_yolo.metrics.image_statistics import THRESHOLDS, ImageStatistics
from qreg_yolo.robustness import results

MEASURED = (*METRICS, "precision", "recall")
"""The metrics of one cell."""


def conclude(
    folder: Path,
    candidate: Candidate,
    cell: Condition,
    detections: Detections,
    images: ImageSet,
    preset: str,
    evaluation: str,
) -> dict[str, float]:
    """Writes the per-image file of a cell, then its records; returns its metrics (fractions; nan without objects).

    Raises:
        OSError: They cannot be written.
    """
    statistics = _statistics(detections, images, images.n_classes(single_cls=candidate.single_cls))
    values = {metric: float(mean_average_precision(statistics, metric=metric)[0]) for metric in METRICS}
    values |= dict(zip(("precision", "recall"), _at_best_f1(statistics), strict=True))
    results.conclude(
        folder, {**candidate.identity, "evaluation": evaluation, **records.provenance()}, cell, statistics, values,
        data=images.yaml.stem, split=images.split, preset=preset,
    )  # fmt: skip
    return values


def _statistics(detections: Detections, images: ImageSet, n_classes: int) -> ImageStatistics:
    bits = detections["hits"][:, None] >> np.arange(THRESHOLDS) & 1
    targets = [
        np.bincount(label["cls"].astype(int).ravel() * (n_classes > 1), minlength=n_classes) for label in images.labels
    ]
    return image_statistics.from_detections(
        confidence=detections["confidence"],
        category=detections["category"],
        image=detections["image"],
        correct=bits,
        targets=np.stack(targets),
        names=[image.place for image in images.images],
    )


def _at_best_f1(statistics: ImageStatistics) -> tuple[float, float]:
    """Returns precision and recall as the host reports them: where the mean F1 is best, mean over classes."""
    objects = statistics.targets.sum(0)
    if not objects.any():
        return math.nan, math.nan
    classes = np.repeat(np.arange(len(objects)), objects)
    metrics = DetMetrics(dict(enumerate(map(str, range(len(objects))))))
    metrics.stats = {
        "tp": [(statistics.hits[:, None] >> np.arange(THRESHOLDS) & 1).astype(bool)],
        "conf": [statistics.confidence],
        "pred_cls": [statistics.category],
        "target_cls": [classes],
        "target_img": [classes],
    }
    metrics.process()
    precision, recall = metrics.mean_results()[:2]
    return float(precision), float(recall)
