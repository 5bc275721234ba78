"""YOLOv5's auto-anchor: how anchors fit the objects of a training set, and better anchors.

Written from the published definition of YOLOv5 6.0 (doi 10.5281/zenodo.5563715).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from ultralytics.data.utils import exif_size
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import LOGGER, RANK

from qreg_yolo.detect.quantization_config import QuantizationConfig
from qreg_yolo.errors import InvalidValueError

Sizes = NDArray[np.float64]
"""`(n, 2)`: width and height, px."""
LOW_RECALL = 0.98
"""Recall below which YOLOv5 fits anchors."""
SMALLEST = 2.0
"""Smallest width or height of objects that anchors are fitted to, px."""
GENERATIONS = 1000
MUTATED = 0.9
"""Share of the numbers that a generation changes."""
SPREAD = 0.1
"""Relative standard deviation of a change."""


@dataclass(frozen=True)
class Fit:
    """How well anchors fit objects."""

    recall: float
    """Best possible recall: share of objects that at least one anchor matches."""
    per_object: float
    """Mean number of matching anchors per object."""
    fitness: float
    """Objective of the evolution: mean of 1 / factor between an object and its nearest anchor, 0 if unmatched."""


def object_sizes(labels: Iterable[Mapping[str, Any]], imgsz: int) -> Sizes:
    """Returns the sizes of all objects in images scaled to ``imgsz`` px on the longer side.

    Args:
        labels: Ultralytics', one per image: ``im_file``, ``bboxes`` `(n, 4)`, xywh in fractions, and ``shape`` (height,
            width); without ``shape`` (rectangular batches) the size is read from the image file.
        imgsz: Px.
    """
    found = [np.empty((0, 2))]
    for label in labels:
        height, width = label["shape"] if "shape" in label else _size(label["im_file"])
        found.append(label["bboxes"][:, 2:4] * np.array([width, height]) * imgsz / max(height, width))
    return np.concatenate(found).astype(np.float64)


def _size(path: str) -> tuple[int, int]:
    """Returns height and width of an image file in the orientation of its metadata."""
    with Image.open(path) as image:
        width, height = exif_size(image)
    return height, width


def fit_of(sizes: Sizes, anchors: Sizes, anchor_t: float) -> Fit:
    """Returns the fit of ``anchors``; an anchor matches if both sides differ by a factor below ``anchor_t``."""
    closeness = 1 / _factors(sizes, anchors)
    matches, best = closeness > 1 / anchor_t, closeness.max(1)
    return Fit(
        recall=float(matches.any(1).mean()),
        per_object=float(matches.sum(1).mean()),
        fitness=float((best * (best > 1 / anchor_t)).mean()),
    )


def fitted_anchors(sizes: Sizes, anchor_t: float, count: int = 9, seed: int = 0) -> Sizes:
    """Returns ``count`` anchors from small to large area, by k-means on the sizes and evolution.

    Args:
        sizes: Sizes of the objects.
        anchor_t: Largest factor of a match.
        count: Number of anchors.
        seed: Seed of the evolution.

    Raises:
        ValueError: Fewer different sizes than anchors.
    """
    sizes = sizes[(sizes >= SMALLEST).any(1) & (sizes > 0).all(1)]
    if len(np.unique(sizes, axis=0)) < count:
        raise InvalidValueError(
            f"{len(sizes)} objects have too few different sizes for {count} anchors. Omit --autoanchor."
        )
    spread = sizes.std(0) + np.finfo(float).tiny
    anchors = _k_means(sizes / spread, count) * spread
    anchors = _evolved(sizes, anchors, anchor_t, np.random.default_rng(seed))
    return anchors[np.argsort(anchors.prod(1))]


def _factors(sizes: Sizes, anchors: Sizes) -> NDArray[np.float64]:
    """Returns `(object, anchor)`: the larger factor, 1 or more, between their widths or heights."""
    with np.errstate(divide="ignore"):
        ratio = sizes[:, None] / anchors[None]
        factors: NDArray[np.float64] = np.maximum(ratio, 1 / ratio).max(2)
    return factors


def _k_means(points: Sizes, count: int, rounds: int = 30) -> Sizes:
    """Returns the centres of Lloyd's algorithm, begun on points evenly spaced in the order of area."""
    different = np.unique(points, axis=0)
    different = different[np.argsort(different.prod(1), kind="stable")]
    centres: Sizes = different[((np.arange(count) + 0.5) * len(different) / count).astype(int)]
    for _ in range(rounds):
        nearest = ((points[:, None] - centres[None]) ** 2).sum(2).argmin(1)
        members = [points[nearest == index] for index in range(count)]
        centres = np.array([one.mean(0) if len(one) else c for one, c in zip(members, centres, strict=True)])
    return centres


def _evolved(sizes: Sizes, anchors: Sizes, anchor_t: float, rng: np.random.Generator) -> Sizes:
    """Returns the best anchors after random mutations, each applied to the best so far."""
    best = fit_of(sizes, anchors, anchor_t).fitness
    for _ in range(GENERATIONS):
        change = (rng.random(anchors.shape) < MUTATED) * rng.random() * rng.normal(size=anchors.shape) * SPREAD
        child = np.maximum(anchors * np.clip(1 + change, 0.3, 3.0), SMALLEST)
        fitness = fit_of(sizes, child, anchor_t).fitness
        if fitness > best:
            anchors, best = child, fitness
    return anchors


def update_anchors(model: DetectionModel, labels: Iterable[Mapping[str, Any]], imgsz: int, resumed: bool) -> None:
    """Logs how the anchors fit a training set; with ``autoanchor``, replaces them first if that improves the fit.

    Args:
        model: Without an anchor head nothing happens.
        labels: Ultralytics' labels of the training set.
        imgsz: Px.
        resumed: Whether the anchors come from the checkpoint and must stay.

    Raises:
        ValueError: As `fitted_anchors`.
    """
    config = QuantizationConfig.of(model).head
    if not config.has_anchors or not len(sizes := object_sizes(labels, imgsz)):
        return
    head, anchor_t = model.model[-1], config.anchor_t
    present = head.anchor_wh.cpu().double().numpy().reshape(-1, 2)
    found, note = fit_of(sizes, present, anchor_t), ""
    if config.autoanchor and not resumed:
        anchors = fitted_anchors(sizes, anchor_t, len(present)).round(1)
        better = fit_of(sizes, anchors, anchor_t)
        note = "; kept: those fitted to the training set are no better"
        if better.fitness > found.fitness:
            head.anchor_wh.copy_(torch.from_numpy(anchors).view(head.anchor_wh.shape))
            shown = ", ".join(f"{width:g}x{height:g}" for width, height in anchors)
            note = f"; fitted to the training set (fitness {found.fitness:.3f} -> {better.fitness:.3f}): {shown}"
            found = better
    elif found.recall < LOW_RECALL:
        note = f"; below {LOW_RECALL}: --autoanchor fits them to the training set"
    if RANK in {-1, 0}:
        LOGGER.info(
            f"Anchors: best possible recall {found.recall:.4f} at {imgsz} px, {found.per_object:.2f} anchors per "
            f"object{note}"
        )
