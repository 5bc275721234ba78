"""Curves from the columns of ``results.csv``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qreg_yolo.errors import AnalysisError, did_you_mean
from qreg_yolo.io.results_csv import EPOCH, FILE, read_results
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.metrics.average_precision import Array

_SEED = re.compile(r"-s\d+$")
_WHOLE_LOSS = re.compile(r"(train|val)/loss$")


@dataclass(frozen=True)
class Curve:
    """One column of one run."""

    epochs: Array
    """`(epochs,)`, ascending, as the file counts them."""
    values: Array
    """`(epochs,)`; may hold nan or inf where the run wrote them."""


def read_curves(sources: Sequence[str], column: str) -> dict[str, list[Curve]]:
    """Returns label -> one curve per run, in the order given.

    Args:
        sources: Paths of ``results.csv`` or of the folder that holds it, each ``PATH`` or ``LABEL=PATH``. Without a
            label it is the folder's name without its seed (``-s0``), so runs that differ in it are grouped.
        column: Which column, for example ``val/box_loss``; ``val/loss`` is, where a file has only its parts, their sum.

    Raises:
        ConfigError: A file lacks the column.
        FileNotFoundError: No such file.
        ResultsError: A file that is not such a table.
        AnalysisError: A file without an epoch.
    """
    curves: dict[str, list[Curve]] = {}
    for source in sources:
        label, path = _parted(source)
        file = path / FILE if path.is_dir() else path
        label = label or _SEED.sub("", file.resolve().parent.name) or file.stem
        curves.setdefault(label, []).append(read_curve(file, column))
    return curves


def _parted(source: str) -> tuple[str, Path]:
    """Returns label and path of ``LABEL=PATH``, both may contain ``=``; the label of a ``PATH`` is empty."""
    parts = [(source[:i], Path(source[i + 1 :])) for i, sign in enumerate(source) if sign == "="]
    candidates = [("", Path(source)), *parts]
    return next((one for one in candidates if one[1].exists()), candidates[min(1, len(parts))])


def read_curve(path: Path, column: str) -> Curve:
    """Returns one column of a ``results.csv``; of a repeated epoch (a resumed run) the last line counts.

    Raises:
        ConfigError: It lacks the column.
        FileNotFoundError: No such file.
        ResultsError: It is not such a table.
        AnalysisError: It holds no epoch.
    """
    table = read_results(path)
    added = _added(table.headings, column)
    if not added:
        choices = [name for name in table.headings if name not in ("", EPOCH, "time")]
        raise ConfigError(
            f"{path} has no column '{column}'.{did_you_mean(column, choices)} There are: {', '.join(choices)}."
        )
    values = map(sum, zip(*(table.column(name) for name in added), strict=True))
    points = dict(zip(table.column(EPOCH), values, strict=True))
    if not points:
        raise AnalysisError(f"{path} holds no epoch yet. Wait for the first one to end.")
    epochs = sorted(points)
    return Curve(np.array(epochs), np.array([points[epoch] for epoch in epochs]))


def _added(header: Sequence[str], column: str) -> list[str]:
    """Returns the columns whose sum is asked for: itself, or a detector's ``val/..._loss`` for ``val/loss``."""
    if column in header:
        return [column]
    whole = _WHOLE_LOSS.match(column)
    parts = [name for name in header if whole and re.fullmatch(rf"{whole[1]}/\w+_loss", name)]
    return [name for name in parts if not name.endswith("/distill_loss")]  # the teacher's, which validation lacks


def smoothed(values: Array, weight: float) -> Array:
    """Returns the exponential average with its start corrected for; weight 0 returns the values.

    A value that is not finite stays what it is and does not count for the later ones.

    Args:
        values: `(epochs,)`.
        weight: Of the past, 0 up to but without 1.

    >>> smoothed(np.array([1.0, 1.0, 4.0]), 0.5).round(3).tolist()
    [1.0, 1.0, 2.714]
    """
    if not 0 <= weight < 1:
        raise ConfigError(f"smoothing={weight} is not in 0 <= smoothing < 1. Give 0 for none.")
    result, average, total = [], 0.0, 0.0
    for value in map(float, values):
        if np.isfinite(value):
            average = weight * average + (1 - weight) * value
            total = weight * total + (1 - weight)
        result.append(average / total if np.isfinite(value) else value)
    return np.array(result)
