"""Simulated detections: what a detector of a given skill finds on images of a given difficulty."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qreg_yolo.metrics.image_statistics import ImageStatistics, from_detections


def simulated(
    rng: np.random.Generator,
    n_images: int = 60,
    n_classes: int = 4,
    skill: float = 1.0,
    false_per_image: float = 6.0,
    difficulty: NDArray[Any] | None = None,
    targets: NDArray[Any] | None = None,
) -> ImageStatistics:
    """Returns statistics in which objects are found with a chance that falls with the image's difficulty."""
    if targets is None:
        targets = rng.poisson(0.8, (n_images, n_classes))
    if difficulty is None:
        difficulty = rng.normal(size=n_images)
    objects = np.repeat(np.arange(targets.size), targets.ravel())
    image, category = objects // n_classes, objects % n_classes
    quality = skill - difficulty[image] + rng.normal(size=len(image))
    found = quality > 0
    level = np.minimum(10, np.ceil(quality * 4)).astype(int)
    correct = np.arange(10) < level[:, None]
    confidence = 1 / (1 + np.exp(1 - quality - 0.5 * rng.normal(size=len(image))))
    false_image = np.repeat(np.arange(n_images), rng.poisson(false_per_image, n_images))
    n_false = len(false_image)
    return from_detections(
        np.concatenate([confidence[found], rng.beta(1, 5, n_false)]),
        np.concatenate([category[found], rng.integers(n_classes, size=n_false)]),
        np.concatenate([image[found], false_image]),
        np.concatenate([correct[found], np.zeros((n_false, 10), bool)]),
        targets,
        [f"images/{index:06}.jpg" for index in range(n_images)],
    )


def unpacked(statistics: ImageStatistics) -> NDArray[np.bool_]:
    """Returns the hits as booleans, `(detections, 10)`."""
    return (statistics.hits[:, None] >> np.arange(10) & 1).astype(bool)
