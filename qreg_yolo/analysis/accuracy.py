"""The table of clean accuracies: variants against a reference, with intervals over seeds and over images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qreg_yolo.analysis.comparison import grouped, statistics_of
from qreg_yolo.analysis.measurements import Measurement, Pair, evaluated_otherwise, precision_warnings
from qreg_yolo.analysis.table import Entry, Estimate, Table
from qreg_yolo.errors import AnalysisError, did_you_mean
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.metrics.average_precision import Array, class_average_precision, mean_over_classes
from qreg_yolo.metrics.bootstrap import RESAMPLES, check_same_images, interval, metric_values, resample_weights
from qreg_yolo.metrics.conditions import CLEAN
from qreg_yolo.metrics.image_statistics import ImageStatistics, PerImage
from qreg_yolo.noise.intervals import mean_interval
from qreg_yolo.terminal import Progress, no_progress

FREQUENT = 10
"""Objects in the measured images from which on a class is in the second group of columns."""
_CLEAN = (CLEAN, 0)
_Set = tuple[str, str, int]
"""Data, split and number of images."""


@dataclass(frozen=True)
class Scores:
    """An accuracy of one run, in points."""

    value: float
    resampled: Array | None = None
    """`(resamples,)`; None without a per-image file."""


@dataclass(frozen=True)
class Scored:
    """A run and its accuracies."""

    run: Measurement
    scores: Mapping[str, Scores]
    """Group of columns -> accuracy; the group of all classes is called by an empty text."""


def accuracy(
    measured: Sequence[Measurement],
    per_image: Path | None = None,
    reference: str | None = None,
    resamples: int = RESAMPLES,
    progress: Progress = no_progress,
) -> Table:
    """Returns one row per model, variant and width: clean accuracy, share kept of the reference, and difference to it.

    Args:
        measured: The runs; of what they were measured on, clean images count.
        per_image: Folder ``per_image`` next to the records; None or missing: no intervals over images, and no columns
            of frequent classes.
        reference: Name of a variant, or its label with the width (``lsq+ 8``); None: the fp32 baselines.
        resamples: Bootstrap resamples.
        progress: Shows how many runs are done.

    Raises:
        AnalysisError: No clean images, no reference, or files that contradict each other.
        ConfigError: A reference that is not in the records, or has several widths.
    """
    runs = _clean(measured)
    groups = grouped(runs, lambda run: run)
    compared = [(group, _reference(group[0], groups, reference)) for group in groups]
    scored, notes = _scored(runs, per_image, resamples, progress)
    columns = dict.fromkeys(name for one in scored.values() for name in one.scores)
    rows: list[tuple[Entry, ...]] = []
    for pair in compared:
        mine, other = ([scored[id(run)] for run in group] for group in pair)
        entries = [entry for name in columns for entry in _entries(mine, other, name)]
        run = mine[0].run
        rows.append((run.model_name, run.data, run.label, str(len(mine)), *entries))
    metric = ", ".join(dict.fromkeys(run.metric for run in runs))
    names = [f"{name}{column}" for name in columns for column in (metric, *_COLUMNS)]
    header = ("model", "data", "variant", "seeds", *names)
    digits = {name: 1 for name in names if name.endswith(_COLUMNS[0])}
    about = (*_about(compared, metric), *notes)
    return Table("Accuracy on clean images", header, tuple(rows), about, digits_of=digits)


_COLUMNS = ("kept [%]", "difference", "difference (images)")


def _clean(measured: Sequence[Measurement]) -> list[Measurement]:
    """Returns the runs with their clean accuracies alone, each once."""
    found: dict[tuple[object, ...], Measurement] = {}
    for run in measured:
        if _CLEAN in run.values:
            key = (run.run_id, run.data, run.split, run.n_images, run.evaluation)
            found[key] = replace(run, preset=None, values={_CLEAN: run.values[_CLEAN]})
    if not found:
        raise AnalysisError("The records hold no clean images. Measure them with 'robustness' or 'val'.")
    return list(found.values())


def _reference(run: Measurement, groups: Sequence[Sequence[Measurement]], name: str | None) -> Sequence[Measurement]:
    """Returns the group that a run's group is compared with."""

    def is_named(one: Measurement) -> bool:
        return one.is_baseline if name is None else name in (one.variant, one.label)

    def traits(one: Measurement) -> tuple[object, ...]:
        return (one.track, one.model, one.data, one.split, one.n_images, one.metric)

    named = [group for group in groups if is_named(group[0])]
    alike = [one for one in named if traits(one[0]) == traits(run) and not evaluated_otherwise(one[0], run)]
    if len(alike) == 1:
        return alike[0]
    if name is not None and not named:
        labels = list(dict.fromkeys(group[0].label for group in groups))
        raise ConfigError(
            f"reference={name!r} is in no record.{did_you_mean(name, labels)} There are: {', '.join(labels)}."
        )
    wanted = "fp32 baseline" if name is None else f"reference '{name}'"
    if not alike:
        raise AnalysisError(
            f"{run.label} of {run.model_name} has no {wanted} that was measured on the same images in the same way. "
            "Measure it into the same records, choose another with --reference, or leave the run out with --runs."
        )
    labels = list(dict.fromkeys(f"{one[0].label} ({one[0].precision})" for one in alike))
    raise ConfigError(f"{run.label} has several of {wanted}: {', '.join(labels)}. Name one with its width.")


def _scored(
    runs: Sequence[Measurement], folder: Path | None, resamples: int, progress: Progress
) -> tuple[dict[int, Scored], list[str]]:
    """Returns the accuracies of each run, and notes on the frequent classes."""
    first: dict[_Set, tuple[str, PerImage, NDArray[np.int64]]] = {}
    found = {id(run): Scored(run, {"": Scores(run.values[_CLEAN])}) for run in runs}
    if folder is None or not folder.is_dir():
        return found, []
    notes: dict[str, None] = {}
    with progress("bootstrap", len(runs)) as done:
        for run in runs:
            statistics = statistics_of(folder, run, _CLEAN)
            if statistics is not None:
                place = (run.data, run.split, run.n_images)
                if place not in first:
                    first[place] = (run.run_id, statistics, resample_weights(run.n_images, resamples))
                name, other, weights = first[place]
                check_same_images(statistics, other, run.run_id, name)
                found[id(run)] = Scored(run, _scores(run, statistics, weights))
                if len(found[id(run)].scores) > 1:
                    notes[_frequent_note(run, statistics)] = None
            done(1)
    return found, list(notes)


def _scores(run: Measurement, statistics: PerImage, weights: NDArray[np.int64]) -> dict[str, Scores]:
    value = run.values[_CLEAN]
    if not isinstance(statistics, ImageStatistics):
        return {"": Scores(value, 100 * metric_values(statistics, run.metric, weights))}
    precisions = class_average_precision(statistics, weights, run.metric)
    found = {"": Scores(value, 100 * mean_over_classes(precisions))}
    frequent, present = _frequent(statistics)
    if 0 < frequent.sum() < present.sum():
        single = class_average_precision(statistics, None, run.metric)
        means: list[Any] = [100 * mean_over_classes(one[frequent]) for one in (single, precisions)]
        found["frequent: "] = Scores(float(means[0][0]), means[1])
    return found


def _frequent(statistics: ImageStatistics) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Returns which classes are frequent, and which have any object, `(classes,)` each."""
    objects = statistics.targets.sum(0)
    return objects >= FREQUENT, objects > 0


def _frequent_note(run: Measurement, statistics: Any) -> str:
    frequent, present = _frequent(statistics)
    return (
        f"frequent: mean over the classes with at least {FREQUENT} objects in the measured images, {frequent.sum()} of "
        f"{present.sum()} in {run.data}/{run.split}."
    )


def _entries(mine: Sequence[Scored], reference: Sequence[Scored], name: str) -> list[Entry]:
    """Returns the entries of one group of columns."""
    if not all(name in one.scores for one in (*mine, *reference)):
        return [Estimate(math.nan)] * (1 + len(_COLUMNS))
    values = [one.scores[name].value for one in mine]
    accuracy = _over_seeds(values)
    if mine[0].run is reference[0].run:
        return [accuracy, Estimate(100.0), Estimate(math.nan), Estimate(math.nan)]
    by_seed = {one.run.seed: one.scores[name] for one in reference}
    pairs = [(one.scores[name], by_seed[one.run.seed]) for one in mine if one.run.seed in by_seed]
    if not pairs:
        return [accuracy, *[Estimate(math.nan)] * len(_COLUMNS)]
    means = [float(np.mean([side.value for side in sides])) for sides in zip(*pairs, strict=True)]
    kept = Estimate(100 * means[0] / means[1] if means[1] else math.nan)
    differences = [one.value - other.value for one, other in pairs]
    over = mean_interval(differences)
    difference = replace(_over_seeds(differences), lo=over.lo, hi=over.hi)
    return [accuracy, kept, difference, _over_images(pairs, difference.value)]


def _over_seeds(values: Sequence[float]) -> Estimate:
    """Returns mean, standard deviation and number."""
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return Estimate(float(np.mean(values)), sd, len(values))


def _over_images(pairs: Sequence[tuple[Scores, Scores]], value: float) -> Estimate:
    """Returns the mean difference over seeds with its interval from the paired bootstrap."""
    sides = [(one.resampled, other.resampled) for one, other in pairs]
    resampled = [one - other for one, other in sides if one is not None and other is not None]
    if len(resampled) < len(pairs):
        return Estimate(value, n=len(pairs))
    ends = interval(np.mean(resampled, axis=0))
    return Estimate(value, math.nan, len(pairs), ends.lo, ends.hi)


def _about(compared: Sequence[tuple[Sequence[Measurement], Sequence[Measurement]]], metric: str) -> list[str]:
    """Returns the notes on the columns, on runs without a partner, and on different arithmetic."""
    runs = [run for group, _ in compared for run in group]
    sets = ", ".join(dict.fromkeys(f"{run.n_images} images of {run.data}/{run.split}" for run in runs))
    labels = ", ".join(dict.fromkeys(f"{reference[0].model_name} {reference[0].label}" for _, reference in compared))
    pairs, alone = [], []
    for group, reference in compared:
        partners = {run.seed: run for run in reference}
        pairs += [Pair(run, partners[run.seed]) for run in group if run.seed in partners and group is not reference]
        alone += [run.run_id for run in group if run.seed not in partners]
    notes = [
        f"{metric} in points, mean ± standard deviation over seeds; {sets}.",
        f"kept: of the mean of {labels}, over the same seeds. difference: to its run of the same seed, mean ± standard "
        "deviation over seeds [95 % interval over seeds, Student's t].",
        "(images): the same mean [95 % interval, paired bootstrap over images]; it does not cover other seeds.",
    ]
    if alone:
        notes.append(f"Without a reference of the same seed, in the mean alone: {', '.join(alone)}.")
    return [*notes, *precision_warnings(pairs)]
