"""From detections to numbers: per-image statistics, records, and the summary for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ultralytics.utils.metrics import DetMetrics

from qreg_yolo import records
from qreg_yolo.analysis import image_statistics
from qreg_yolo.analysis.average_precision import METRICS, mean_average_precision
from qreg_yolo.analysis.cells import CLEAN
from qreg_yolo.analysis.image_statistics import THRESHOLDS, ImageStatistics
from qreg_yolo.detect.outputs import RECORDS
from qreg_yolo.detect.robust.images import ImageSet
from qreg_yolo.detect.robust.models import Candidate, Detections
from qreg_yolo.detect.robust.views import Cell

PER_IMAGE = "per_image"
"""Folder of the per-image files, beside the records."""
MEASURED = (*METRICS, "precision", "recall")
"""The metrics of one cell."""
Values = dict[tuple[str, Cell], dict[str, float]]
"""(run, cell) -> metric -> fraction."""


def finished(folder: Path) -> Values:
    """Returns what the records of an output folder hold in full, with their per-image files.

    Raises:
        RecordsError: ``records.csv`` is none of ours.
    """
    path = folder / RECORDS
    found: Values = {}
    for row in records.read(path).to_dicts() if path.is_file() else []:
        cell = (row["corruption"] or CLEAN, row["severity"] or 0)
        found.setdefault((row["run_id"], cell), {})[row["metric"]] = row["value"]
    return {
        (run_id, cell): values
        for (run_id, cell), values in found.items()
        if set(MEASURED) <= values.keys() and image_statistics.path_of(folder / PER_IMAGE, run_id, *cell).is_file()
    }


def conclude(
    folder: Path, candidate: Candidate, cell: Cell, detections: Detections, images: ImageSet, preset: str
) -> dict[str, float]:
    """Writes the per-image file of a cell, then its records; returns its metrics (fractions).

    Raises:
        OSError: They cannot be written.
    """
    statistics = _statistics(detections, images, len(candidate.model.names))
    values = {metric: float(mean_average_precision(statistics, metric=metric)[0]) for metric in METRICS}
    values |= dict(zip(("precision", "recall"), _at_best_f1(statistics), strict=True))
    image_statistics.write(image_statistics.path_of(folder / PER_IMAGE, candidate.run_id, *cell), statistics)
    name, severity = cell
    clean = name == CLEAN
    origin: dict[str, Any] = {**candidate.identity, **records.provenance()}
    records.append(
        folder / RECORDS,
        [
            records.Record(
                data=images.yaml.stem,
                split=images.split,
                n_images=len(images.images),
                preset=None if clean else preset,
                corruption=None if clean else name,
                severity=None if clean else severity,
                metric=metric,
                value=values[metric],
                unit="fraction",
                **origin,
            )
            for metric in MEASURED
        ],
    )
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


def summary(candidates: Sequence[Candidate], cells: Iterable[Cell], values: Values) -> str:
    """Returns one row per model: clean, mean over the corruptions (of the mean over severities) and their ratio."""
    names = list(dict.fromkeys(name for name, _ in cells if name != CLEAN))
    severities = sorted({severity for name, severity in cells if name != CLEAN})
    width = max(len(one.run_id) for one in candidates)
    lines = [f"{'mAP50-95 [points]':{width}}{'clean':>9}{'mean':>9}{'rPC [%]':>9}"]
    for one in candidates:
        clean = 100 * values[one.run_id, (CLEAN, 0)]["map50_95"]
        corrupted = [100 * values[one.run_id, (name, s)]["map50_95"] for name in names for s in severities]
        mean = float(np.mean(corrupted)) if corrupted else float("nan")
        ratio = 100 * mean / clean if clean else float("nan")
        lines.append(f"{one.run_id:{width}}{clean:>9.2f}{mean:>9.2f}{ratio:>9.1f}")
    lines.append(f"mean: {len(names)} corruptions, severities {', '.join(map(str, severities)) or 'none'}")
    return "\n".join(lines)
