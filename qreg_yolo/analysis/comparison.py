"""Comparisons of quantized runs with their baselines, with intervals where per-image files exist."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from qreg_yolo.analysis.measurements import Measurement, Pair
from qreg_yolo.analysis.table import Estimate
from qreg_yolo.errors import AnalysisError
from qreg_yolo.metrics import image_statistics
from qreg_yolo.metrics.bootstrap import (
    RESAMPLED,
    RESAMPLES,
    check_same_images,
    interval,
    metric_values,
    metrics_of,
    resample_weights,
)
from qreg_yolo.metrics.conditions import Condition
from qreg_yolo.metrics.image_statistics import PerImage
from qreg_yolo.metrics.robustness import Number, Values
from qreg_yolo.terminal import Progress, no_progress

_AGREE = 0.05
"""Points that a record and the metric of its per-image file may differ by (records are rounded)."""
Item = TypeVar("Item")
Measure = Callable[[Values, Values], Number]
"""(quantized, fp32) -> a number, for values and for values per resample alike."""


@dataclass(frozen=True)
class Comparison:
    """A pair and, where per-image files exist, both its sides on the same resamples of the images."""

    pair: Pair
    quantized: Values = field(default_factory=dict, repr=False)
    fp32: Values = field(default_factory=dict, repr=False)


def compare(
    pairs: Iterable[Pair],
    per_image: Path | None = None,
    resamples: int = RESAMPLES,
    progress: Progress = no_progress,
) -> list[Comparison]:
    """Returns the pairs with their resampled per-image metrics; each file is read and resampled once.

    Args:
        pairs: Quantized runs and their baselines.
        per_image: Folder ``per_image`` next to the records; None or missing: no intervals.
        resamples: Bootstrap resamples.
        progress: Shows how many conditions are done.

    Raises:
        AnalysisError: A file that is damaged, belongs to other images, or contradicts its record.
    """
    pairs = list(pairs)
    if per_image is None or not per_image.is_dir():
        return [Comparison(pair) for pair in pairs]
    runs = {_key(one): one for pair in pairs for one in (pair.fp32, pair.quantized)}
    resampled: dict[tuple[object, ...], dict[Condition, NDArray[np.float64]]] = {key: {} for key in runs}
    first: dict[tuple[object, ...], tuple[str, PerImage]] = {}
    weights: dict[int, NDArray[np.int64]] = {}
    measured = [(key, run, condition) for key, run in runs.items() for condition in run.values]
    with progress("bootstrap", len(measured)) as done:
        for key, run, condition in measured:
            found = statistics_of(per_image, run, condition)
            if found is not None:
                name, reference = first.setdefault((run.data, run.split, run.n_images), (run.run_id, found))
                check_same_images(found, reference, f"{run.run_id} ({condition[0]}-{condition[1]})", name)
                if run.n_images not in weights:
                    weights[run.n_images] = resample_weights(run.n_images, resamples)
                resampled[key][condition] = 100 * metric_values(found, run.metric, weights[run.n_images])
            done(1)
    return [Comparison(pair, resampled[_key(pair.quantized)], resampled[_key(pair.fp32)]) for pair in pairs]


def _key(one: Measurement) -> tuple[object, ...]:
    return (one.run_id, one.data, one.split, one.n_images, one.evaluation, one.preset)


def statistics_of(folder: Path, one: Measurement, condition: Condition) -> PerImage | None:
    """Returns the statistics of one condition, or None without a file for that metric."""
    path = image_statistics.path_of(folder, one.run_id, *condition)
    if one.metric not in RESAMPLED or math.isnan(one.values[condition]) or not path.is_file():
        return None
    found = image_statistics.read(path)
    if one.metric not in metrics_of(found) or len(found.names) != one.n_images:
        return None  # of another kind, or the run was measured on several sets and this file is another's
    value, recorded = 100 * metric_values(found, one.metric)[0], one.values[condition]
    if not abs(value - recorded) <= _AGREE:
        raise AnalysisError(
            f"{path} gives {one.metric}={value:.3f}, its record {recorded:.3f} points: they are of different "
            "measurements. Delete the file and measure that condition again, or give another --per-image folder."
        )
    return found


def estimate(comparisons: Sequence[Comparison], measure: Measure) -> Estimate:
    """Returns a measure averaged over runs that differ in their seed alone.

    The interval is that of the mean over the same runs: it tells how the choice of images moves it. How another seed
    moves it is the standard deviation.

    Args:
        comparisons: One per seed.
        measure: What to compute of each.
    """
    values = [float(measure(one.pair.quantized.values, one.pair.fp32.values)) for one in comparisons]
    mean, n = float(np.mean(values)), len(values)
    sd = float(np.std(values, ddof=1)) if n > 1 else math.nan
    resampled = np.mean([measure(one.quantized, one.fp32) for one in comparisons], axis=0)
    if resampled.ndim == 0 or np.isinf(resampled).any():  # Eq. 5 without an error left
        return Estimate(mean, sd, n)
    ends = interval(resampled)
    return Estimate(mean, sd, n, ends.lo, ends.hi)


def by_seed(comparisons: Iterable[Comparison]) -> list[list[Comparison]]:
    """Returns the comparisons grouped into those that differ in the seed alone (and its consequences).

    Raises:
        AnalysisError: Two runs with the same seed, which would count twice.
    """
    return grouped(comparisons, lambda one: one.pair.quantized)


def grouped(items: Iterable[Item], run_of: Callable[[Item], Measurement]) -> list[list[Item]]:
    """Returns items grouped into those whose runs differ in the seed alone; errors as `by_seed`."""
    groups: dict[tuple[object, ...], list[Item]] = {}
    for item in items:
        run = run_of(item)
        measured = (run.data, run.split, run.n_images, run.evaluation, run.preset)
        group = groups.setdefault((run.track, run.model, run.label, run.precision, *measured), [])
        for other in map(run_of, group):
            if other.seed == run.seed:
                raise AnalysisError(
                    f"{other.run_id} and {run.run_id} are the same but for their weights (seed {run.seed}). Keep "
                    "one of them with --runs."
                )
        group.append(item)
    return list(groups.values())
