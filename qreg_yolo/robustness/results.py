"""The cells of an output folder: their per-image files, their records, and the summary for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qreg_yolo.io import records
from qreg_yolo.metrics import image_statistics
from qreg_yolo.metrics.conditions import CLEAN, Condition
from qreg_yolo.metrics.image_statistics import PerImage
from qreg_yolo.terminal import number, table

PER_IMAGE = "per_image"
"""Folder of the per-image files, beside the records."""
Values = dict[tuple[str, Condition], dict[str, float]]
"""(run, cell) -> metric -> fraction."""


def finished(folder: Path, metrics: Iterable[str]) -> Values:
    """Returns what the records of an output folder hold in full, with their per-image files.

    Args:
        folder: The output folder.
        metrics: What a whole cell has.

    Raises:
        RecordsError: ``records.csv`` is none of ours.
    """
    path = folder / records.FILE
    records.check_appendable(path)
    found: Values = {}
    for row in records.read(path).to_dicts() if path.is_file() else []:
        cell = (row["corruption"] or CLEAN, row["severity"] or 0)
        found.setdefault((row["run_id"], cell), {})[row["metric"]] = row["value"]
    return {
        (run_id, cell): values
        for (run_id, cell), values in found.items()
        if set(metrics) <= values.keys() and image_statistics.path_of(folder / PER_IMAGE, run_id, *cell).is_file()
    }


def outstanding(
    run_ids: Sequence[str], cells: Sequence[Condition], values: Values
) -> tuple[set[tuple[str, Condition]], int]:
    """Returns which cells of which runs are still to be measured, and how many are not.

    Args:
        run_ids: The models.
        cells: What is asked for.
        values: What `finished` returned.
    """
    asked = {(run_id, cell) for run_id in run_ids for cell in cells}
    missing = asked - values.keys()
    return missing, len(asked) - len(missing)


def known_before(again: int, missing: int) -> list[str]:
    """Returns the line that says how much of a measurement was there already; none where nothing was."""
    return [f"{again} of {again + missing} cells were measured before."] if again else []


def conclude(
    folder: Path,
    run: Mapping[str, Any],
    cell: Condition,
    statistics: PerImage,
    values: Mapping[str, float],
    *,
    data: str,
    split: str,
    preset: str,
) -> None:
    """Writes the per-image file of a cell, then its records.

    Args:
        folder: The output folder.
        run: The fields of a record that say which run was measured, and its provenance.
        cell: What was measured.
        statistics: On which images.
        values: Metric -> fraction.
        data: Name of the data set.
        split: Of the data set.
        preset: Of the corruptions.

    Raises:
        OSError: They cannot be written.
    """
    image_statistics.write(image_statistics.path_of(folder / PER_IMAGE, str(run["run_id"]), *cell), statistics)
    name, severity = cell
    clean = name == CLEAN
    records.append(
        folder / records.FILE,
        [
            records.Record(
                data=data,
                split=split,
                n_images=len(statistics.names),
                preset=None if clean else preset,
                corruption=None if clean else name,
                severity=None if clean else severity,
                metric=metric,
                value=value,
                unit="fraction",
                **run,
            )
            for metric, value in values.items()
        ],
    )


def summary(run_ids: Sequence[str], cells: Sequence[Condition], values: Values, metric: str, title: str) -> str:
    """Returns one row per model: clean, mean over the corruptions (of the mean over severities) and their ratio.

    Args:
        run_ids: The models.
        cells: What was measured.
        values: The numbers.
        metric: Which of them.
        title: What the metric is called there.
    """
    names = list(dict.fromkeys(name for name, _ in cells if name != CLEAN))
    severities = sorted({severity for name, severity in cells if name != CLEAN})
    rows = [[title, "clean", "mean", "rPC [%]"]]
    for run_id in run_ids:
        clean = 100 * values[run_id, (CLEAN, 0)][metric]
        corrupted = [100 * values[run_id, (name, s)][metric] for name in names for s in severities]
        mean = float(np.mean(corrupted)) if corrupted else float("nan")
        ratio = 100 * mean / clean if clean else float("nan")
        rows.append([run_id, number(clean, ".2f"), number(mean, ".2f"), number(ratio, ".1f")])
    severity = ", ".join(map(str, severities)) or "none"
    return "\n".join([*table(rows), f"mean: {len(names)} corruptions, severities {severity}"])
