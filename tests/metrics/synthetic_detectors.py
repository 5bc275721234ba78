"""Two unequal detectors on the same photographs, and what their mAP is on all photographs there could be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qreg_yolo.metrics.image_statistics import ImageStatistics, from_detections
from tests.metrics.synthetic_detections import unpacked

FREQUENCY = np.array([0.9, 0.7, 0.5, 0.35])
"""Objects per image and class: the rarest has 70 on 200 images. Rarer ones: see docs/deviations.md."""


@dataclass(frozen=True)
class Detector:
    """How well a detector finds, places and ranks."""

    skill: float
    """By how much the mean object is easier than what it just finds."""
    placing: float
    """IoU thresholds that a unit of quality is worth."""
    false_per_image: float
    false_confidence: float
    """Mean confidence of a false positive."""


GOOD = Detector(1.2, 4.0, 2.0, 0.2)
POOR = Detector(0.5, 3.0, 3.5, 0.3)
"""Finds less, places it worse, and ranks more false positives higher: some 15 points of mAP below."""


def study(
    rng: np.random.Generator, n_images: int, frequency: NDArray[Any] = FREQUENCY
) -> tuple[ImageStatistics, ImageStatistics]:
    """Returns what the good and the poor detector find on the same images.

    Objects come in clusters (few images hold many), rare classes are harder, what is hard for one detector is hard for
    the other, and false positives gather in hard images.
    """
    crowd = rng.gamma(2.0, 0.5, n_images)
    targets = rng.poisson(crowd[:, None] * frequency)
    hard_image = rng.normal(size=n_images)
    place = np.repeat(np.arange(targets.size), targets.ravel())
    hard_class = np.linspace(-0.4, 0.4, len(frequency))
    hard_object = hard_class[place % len(frequency)] + 0.7 * hard_image[place // len(frequency)]
    hard_object += 0.7 * rng.normal(size=len(place))
    good, poor = (_detect(rng, one, targets, place, hard_image, hard_object) for one in (GOOD, POOR))
    return good, poor


def _detect(
    rng: np.random.Generator,
    detector: Detector,
    targets: NDArray[Any],
    place: NDArray[Any],
    hard_image: NDArray[Any],
    hard_object: NDArray[Any],
) -> ImageStatistics:
    n_images, n_classes = targets.shape
    quality = detector.skill - hard_object + 0.5 * rng.normal(size=len(place))
    found = quality > 0
    level = np.ceil(quality * detector.placing + rng.normal(size=len(place))).clip(0, 10)  # 0: found, but ill placed
    confidence = 1 / (1 + np.exp(1 - 1.5 * quality - 0.7 * rng.normal(size=len(place))))
    number = rng.poisson(detector.false_per_image * np.exp(0.5 * hard_image - 0.125))
    false_image = np.repeat(np.arange(n_images), number)
    mean = detector.false_confidence
    return from_detections(
        np.concatenate([confidence[found], rng.beta(4 * mean, 4 * (1 - mean), len(false_image))]),
        np.concatenate([place[found] % n_classes, rng.integers(n_classes, size=len(false_image))]),
        np.concatenate([place[found] // n_classes, false_image]),
        np.concatenate([np.arange(10) < level[found, None], np.zeros((len(false_image), 10), bool)]),
        targets,
        [f"{index:07}.jpg" for index in range(n_images)],
    )


def plain_map(statistics: ImageStatistics) -> float:
    """Returns mAP50-95 by the definition, in one pass over the sorted detections of each class: for large samples."""
    recalls, hits = np.linspace(0, 1, 101), unpacked(statistics)
    areas = []
    for category in range(statistics.targets.shape[1]):
        found = np.cumsum(hits[statistics.category == category], axis=0)
        precision = found / np.arange(1, len(found) + 1)[:, None]
        envelope = np.vstack([np.maximum.accumulate(precision[::-1])[::-1], np.zeros(10)])
        recall = found / statistics.targets[:, category].sum()
        for threshold in range(10):
            curve = envelope[np.searchsorted(recall[:, threshold], recalls), threshold]
            areas.append((curve[1:] + curve[:-1]).sum() / 200)
    return float(np.mean(areas))
