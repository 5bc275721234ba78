"""The built-in classification dataset: five shapes with and without stripes, 32 px; drawn, never stored.

Every image has a shape of random place, size, angle and colours on a shaded ground, under noise. The images are the
same on every call. Colour, place and size say nothing about the class, and the noise keeps accuracy below 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qreg_yolo.datasets.cifar import LabelledImages

SHAPES = ("disc", "square", "triangle", "cross", "ring")
CLASSES = tuple(f"{fill} {shape}" for shape in SHAPES for fill in ("plain", "striped"))
N_TRAIN, N_VAL = 2560, 640
"""Number of images."""
SIZE = 32
NOISE = 25.0
"""Standard deviation of the noise, of 255."""
_SEEDS = {"train": 20220615, "val": 20220616}
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
"""Round numbers near the set's own."""

Array = NDArray[np.float32]


def demo_set(split: str, n: int | None = None) -> LabelledImages:
    """Returns the training (`train`) or validation set (`val`); ``n`` images instead of `N_TRAIN` or `N_VAL`."""
    count = n if n is not None else (N_TRAIN if split == "train" else N_VAL)
    rng = np.random.Generator(np.random.PCG64(_SEEDS[split]))
    labels = np.arange(count) % len(CLASSES)
    images = np.concatenate([_draw(part, rng) for part in np.array_split(labels, max(count // 256, 1))])
    return LabelledImages(
        name="demo",
        split=split,
        images=images,
        labels=labels.astype(np.int64),
        classes=CLASSES,
        mean=MEAN,
        std=STD,
        keys=tuple(f"{number:05}.png" for number in range(count)),
    )


def _draw(labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Returns uint8 images `(n, 32, 32, 3)` of the classes ``labels``."""
    n = len(labels)
    x, y = _coordinates(n, rng)
    inside = _shape(x, y, labels // 2)
    ground, ink = rng.uniform(30, 225, (2, n, 1, 1, 3))
    near = np.abs(ground - ink).max(-1, keepdims=True) < 60
    ink = np.where(near, (ink + 128) % 256, ink)  # a shape that cannot be seen teaches nothing
    frequency, phase = rng.uniform(1.2, 1.8, (n, 1, 1)), rng.uniform(0, 1, (n, 1, 1))
    stripes = (np.floor(2 * (x * frequency + phase)) % 2 == 0) & (labels % 2 == 1)[:, None, None]
    covered = (inside & ~stripes)[..., None]
    shade = rng.uniform(-30, 30, (n, 1, 1, 1)) * np.linspace(-1, 1, SIZE)[None, :, None, None]
    picture = np.where(covered, ink, ground) + shade + rng.normal(0, NOISE, (n, SIZE, SIZE, 3))
    pixels: NDArray[np.uint8] = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    return pixels


def _coordinates(n: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Returns each pixel's place in its shape's own frame, where the shape reaches to about 1: two `(n, 32, 32)`."""
    centre = rng.uniform(-4, 4, (2, n, 1, 1))
    radius = rng.uniform(7, 12, (n, 1, 1))
    angle = rng.uniform(-np.pi, np.pi, (n, 1, 1))
    rows, columns = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    dx, dy = (columns - centre[0]) / radius, (rows - centre[1]) / radius
    x, y = np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx
    return x.astype(np.float32), y.astype(np.float32)


def _shape(x: Array, y: Array, kinds: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Returns the mask of each image's shape: boolean `(n, 32, 32)`."""
    distance = np.hypot(x, y)
    square = np.maximum(np.abs(x), np.abs(y))
    triangle = np.maximum(np.abs(x) * np.sqrt(3) / 2 + y / 2, -y) * 2
    cross = np.where(np.minimum(np.abs(x), np.abs(y)) < 0.33, square, 2)
    ring = np.where(distance > 0.55, distance, 2)
    levels = np.stack([distance, square * 1.15, triangle, cross, ring])
    chosen: NDArray[np.bool_] = levels[kinds, np.arange(len(kinds))] < 1
    return chosen
