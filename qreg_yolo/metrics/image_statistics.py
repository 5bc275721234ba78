"""Per-image statistics of one model on one set: all that a metric and its bootstrap need, and no more.

`ImageStatistics` are a detector's; a classifier's are `predictions.ImagePredictions`. Both are stored in files of one
form.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qreg_yolo.corrupt.spec import SEVERITIES
from qreg_yolo.errors import AnalysisError
from qreg_yolo.io import files
from qreg_yolo.metrics.conditions import CLEAN
from qreg_yolo.metrics.predictions import ImagePredictions

THRESHOLDS = 10
"""IoU thresholds 0.50, 0.55, ... 0.95: bit 0 to bit 9 of `ImageStatistics.hits`."""


class PerImage(Protocol):
    """The attributes that statistics of detectors and of classifiers share; `bootstrap.metric_values` takes both."""

    @property
    def targets(self) -> NDArray[np.int32]:
        """`(images, ...)`: the labels of each image."""

    @property
    def names(self) -> NDArray[np.str_]:
        """`(images,)`: the name of each image."""


@dataclass(frozen=True)
class ImageStatistics:
    """Detections of all images, the most confident first, and the objects.

    Build it with `from_detections`, which sorts; validated on construction.

    Raises:
        AnalysisError: Arrays that do not fit together, or detections that are not sorted.
    """

    confidence: NDArray[np.float32]
    """`(detections,)`, 0..1, descending."""
    category: NDArray[np.int32]
    """`(detections,)`: class of each, 0 or more."""
    image: NDArray[np.int32]
    """`(detections,)`: index of its image."""
    hits: NDArray[np.uint16]
    """`(detections,)`: bit t is set where it is a true positive at the t-th of the 10 IoU thresholds."""
    targets: NDArray[np.int32]
    """`(images, classes)`: number of objects of each class in each image."""
    names: NDArray[np.str_]
    """`(images,)`: paths relative to the split's image folder. They and their order are the same under every corruption
    and for every model: what is compared pairwise, or averaged over conditions, must have the same."""

    def __post_init__(self) -> None:
        sizes = {len(self.confidence), len(self.category), len(self.image), len(self.hits)}
        if len(sizes) > 1:
            raise AnalysisError(f"The arrays of detections have {sorted(sizes)} entries. Give one entry per detection.")
        if self.targets.ndim != 2 or len(self.targets) != len(self.names):
            raise AnalysisError(
                f"targets has the shape {self.targets.shape} for {len(self.names)} images. Give one row per image."
            )
        if len(self.confidence) and not bool(np.all(np.diff(self.confidence) <= 0)):
            raise AnalysisError("The detections are not sorted by confidence, or one is nan. Use from_detections.")
        for name, values, limit in (
            ("image", self.image, len(self.names)),
            ("hits", self.hits, 1 << THRESHOLDS),
            ("category", self.category, self.targets.shape[1]),
        ):
            if len(values) and not 0 <= int(values.min()) <= int(values.max()) < limit:
                raise AnalysisError(f"{name} holds {values.min()}..{values.max()}. Give 0..{limit - 1}.")
        if self.targets.size and self.targets.min() < 0:
            raise AnalysisError(f"targets holds {self.targets.min()}. Give counts of objects, 0 or more.")


def from_detections(
    confidence: ArrayLike,
    category: ArrayLike,
    image: ArrayLike,
    correct: ArrayLike,
    targets: ArrayLike,
    names: ArrayLike,
) -> ImageStatistics:
    """Returns the statistics of detections in any order.

    Equal confidences keep their order, so the result is the same on every machine.

    Args:
        confidence: `(detections,)`, 0..1.
        category: `(detections,)`: class of each, 0 or more.
        image: `(detections,)`: index of the image of each, into ``names``.
        correct: `(detections, 10)`, boolean: true positive at each IoU threshold.
        targets: `(images, classes)`: objects of each class in each image.
        names: `(images,)`.
    """
    sure = np.asarray(confidence, np.float32).reshape(-1)
    order = np.argsort(-sure, kind="stable")
    bits = np.asarray(correct, bool).reshape(-1, THRESHOLDS) @ (1 << np.arange(THRESHOLDS))
    return ImageStatistics(
        confidence=sure[order],
        category=np.asarray(category).reshape(-1).astype(np.int32)[order],
        image=np.asarray(image).reshape(-1).astype(np.int32)[order],
        hits=bits.astype(np.uint16)[order],
        targets=np.asarray(targets, np.int32),
        names=np.asarray(names, np.str_),
    )


def path_of(folder: Path, run_id: str, corruption: str, severity: int) -> Path:
    """Returns the file of one condition's statistics: ``<folder>/<run_id>/<corruption>-<severity>.npz``.

    Args:
        folder: The folder ``per_image`` next to ``records.csv``.
        run_id: The run; one word, no path.
        corruption: One of the 19, or ``clean``.
        severity: 1..5; 0 for clean images.

    Raises:
        AnalysisError: A severity that does not exist, or a run id that is a path.
    """
    if severity not in ((0,) if corruption == CLEAN else SEVERITIES):
        raise AnalysisError(f"severity={severity} of '{corruption}' does not exist. Give 1..5, and 0 for clean.")
    if run_id in ("", ".", "..") or any(sign in run_id for sign in "/\\\0"):
        raise AnalysisError(f"run_id={run_id!r} cannot name a folder. Give a word without slashes.")
    return folder / run_id / f"{corruption}-{severity}.npz"


_KINDS: Mapping[type, Mapping[str, tuple[type, int]]] = {
    ImageStatistics: {
        "confidence": (np.float32, 1),
        "category": (np.int32, 1),
        "image": (np.int32, 1),
        "hits": (np.uint16, 1),
        "targets": (np.int32, 2),
        "names": (np.str_, 1),
    },
    ImagePredictions: {"correct": (np.bool_, 1), "targets": (np.int32, 1), "names": (np.str_, 1)},
}
"""Kind of statistics -> array -> (type, dimensions)."""


def write(path: Path, statistics: PerImage) -> None:
    """Writes the statistics atomically, compressed, making the folder where it is missing.

    Raises:
        OSError: The folder is read-only or the disk is full; an older file is untouched then.
    """
    data = io.BytesIO()
    arrays = {name: getattr(statistics, name) for name in _KINDS[type(statistics)]}
    np.savez_compressed(data, allow_pickle=False, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(path, data.getvalue())


def read(path: Path) -> PerImage:
    """Returns the statistics that `write` wrote, of the kind that they are; nothing in the file is executed.

    Raises:
        AnalysisError: The file is not ours, or damaged.
        OSError: It cannot be read.
    """
    arrays: dict[str, Any] = {}
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            kind: type[ImagePredictions | ImageStatistics] = (
                ImagePredictions if "correct" in file.files else ImageStatistics
            )
            for name, (dtype, dimensions) in _KINDS[kind].items():
                array = file[name]
                if array.ndim != dimensions or not np.issubdtype(array.dtype, dtype):
                    raise AnalysisError(f"'{name}' is {array.dtype} of {array.ndim} dimensions")
                arrays[name] = array
        found: PerImage = kind(**arrays)
    except (ValueError, KeyError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise AnalysisError(
            f"{path} holds no per-image statistics: {error}. Delete it and measure that condition again."
        ) from error
    return found
