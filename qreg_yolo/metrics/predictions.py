"""Predictions of a classifier per image, and their accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qreg_yolo.errors import AnalysisError

ACCURACIES: tuple[str, ...] = ("accuracy_top1",)
"""Metrics of the records that are computed from predictions."""


@dataclass(frozen=True)
class ImagePredictions:
    """The predictions on all images; validated on construction.

    Raises:
        AnalysisError: Arrays that do not fit together.
    """

    correct: NDArray[np.bool_]
    """`(images,)`: whether the class with the largest logit is the image's own."""
    targets: NDArray[np.int32]
    """`(images,)`: the class of each, 0 or more."""
    names: NDArray[np.str_]
    """`(images,)`: the names that the dataset gives them; the same, in the same order, under every corruption and for
    every model."""

    def __post_init__(self) -> None:
        sizes = [len(self.correct), len(self.targets), len(self.names)]
        if len(set(sizes)) > 1:
            raise AnalysisError(f"correct, targets and names have {sizes} entries. Give one of each per image.")
        if len(self.targets) and self.targets.min() < 0:
            raise AnalysisError(f"targets holds {self.targets.min()}. Give classes, 0 or more.")


def accuracy(
    predictions: ImagePredictions, weights: NDArray[np.integer[Any]] | None = None, metric: str = ACCURACIES[0]
) -> NDArray[np.float64]:
    """Returns the share of correct predictions (0..1) for each column of weights, `(resamples,)`.

    Exact, as the sums are of whole numbers: with weights of 1 it is the number of correct predictions over that of
    images.

    Args:
        predictions: The predictions.
        weights: `(images, resamples)`: how often each image is in each resample; None: each once, one resample.
        metric: ``accuracy_top1``.
    """
    if metric not in ACCURACIES:
        raise AnalysisError(f"metric={metric!r}: the predictions of a classifier give {', '.join(ACCURACIES)}.")
    if weights is None:
        weights = np.ones((len(predictions.names), 1), np.int64)
    total = weights.sum(0)
    right = whole_product(predictions.correct, weights, int(total.max(initial=0)))
    share: NDArray[np.float64] = right.astype(np.float64) / np.maximum(total, 1)
    return share


_EXACT_FLOAT32 = 1 << 24
"""Whole numbers up to here are exact in float32, whose matrix product takes half the time."""


def whole_product(
    left: NDArray[np.integer[Any] | np.bool_], right: NDArray[np.integer[Any] | np.bool_], largest: int
) -> NDArray[np.floating[Any]]:
    """Returns ``left @ right`` for counts, exactly, as float32 or float64.

    Args:
        left: `(..., inner)`: whole numbers, 0 or more.
        right: `(inner, columns)`: as ``left``.
        largest: A bound of every entry of the product; below 2**24 it is computed in float32.
    """
    exact = np.float32 if largest < _EXACT_FLOAT32 else np.float64
    # Some of OpenBLAS' kernels compute in lanes that they never store, and leave "invalid" raised (numpy issue 24067).
    with np.errstate(invalid="ignore"):
        product: NDArray[np.floating[Any]] = left.astype(exact) @ right.astype(exact)
    return product
