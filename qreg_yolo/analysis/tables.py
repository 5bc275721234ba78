"""The tables: Table 1 with Eq. 5, robustness, severities, conditions; each from comparisons of runs with baselines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from qreg_yolo.analysis.comparison import Comparison, Measure, by_seed, estimate
from qreg_yolo.analysis.measurements import Pair, missing_conditions, warnings_of
from qreg_yolo.analysis.table import Entry, Table
from qreg_yolo.corrupt.spec import BENCHMARK_NAMES, NAMES
from qreg_yolo.metrics.conditions import CLEAN, CONDITIONS
from qreg_yolo.metrics.robustness import (
    Number,
    Values,
    corruption_error,
    error_improvement,
    map_delta,
    mean_over,
    relative_performance,
)


def table1(comparisons: Sequence[Comparison], severities: Sequence[int]) -> Table:
    """Returns QReg's Table 1: averages over the 19 corruptions, the difference in points, and Eq. 5."""
    columns: dict[str, Measure] = {"fp32 (19)": lambda q, fp: mean_over(fp, NAMES, severities)}
    columns["quantized (19)"] = lambda q, fp: mean_over(q, NAMES, severities)
    for name, conditions in (("19", NAMES), ("20", CONDITIONS)):
        columns[f"delta ({name})"] = partial(_delta, conditions=conditions, severities=severities)
        columns[f"Eq. 5 ({name})"] = partial(_improvement, conditions=conditions, severities=severities)
    notes = ("Averages and delta in points; Eq. 5 = 100 log10((100 - fp32) / (100 - quantized)). (20): with clean.",)
    return _by_group("Table 1: quantized against full precision", comparisons, severities, columns, notes)


def robustness(comparisons: Sequence[Comparison], severities: Sequence[int]) -> Table:
    """Returns P, mPC, rPC and mCE of each quantized run and of its fp32 baseline."""
    columns: dict[str, Measure] = {"P": partial(_mean, conditions=(CLEAN,), severities=severities)}
    for name, conditions in (("15", BENCHMARK_NAMES), ("19", NAMES)):
        columns[f"mPC ({name})"] = partial(_mean, conditions=conditions, severities=severities)
        columns[f"rPC ({name})"] = partial(_relative, conditions=conditions, severities=severities)
        columns[f"mCE ({name})"] = partial(corruption_error, conditions=conditions, severities=severities)
    notes = (
        "P: clean, mPC: mean under corruption, in points; rPC = mPC / P (a ratio of means), mCE against the fp32 "
        "baseline, in percent.",
    )
    baselines = {}
    for one in comparisons:
        baselines[id(one.pair.fp32)] = Comparison(Pair(one.pair.fp32, one.pair.fp32), one.fp32, one.fp32)
    return _by_group("Robustness", [*baselines.values(), *comparisons], severities, columns, notes)


def by_severity(comparisons: Sequence[Comparison], severities: Sequence[int]) -> Table:
    """Returns the mean difference over the 19 corruptions at each severity, and at all of them together."""
    columns: dict[str, Measure] = {
        f"severity {severity}": partial(_delta, conditions=NAMES, severities=(severity,)) for severity in severities
    }
    columns["mean"] = partial(_delta, conditions=NAMES, severities=severities)
    notes = ("Quantized - fp32 in points, mean over the 19 corruptions.",)
    return _by_group("Difference by severity", comparisons, severities, columns, notes)


def by_condition(comparisons: Sequence[Comparison], severities: Sequence[int]) -> Table:
    """Returns the difference in each of the 20 conditions: one row per condition, one column per group of seeds."""
    groups = by_seed(comparisons)
    rows: list[tuple[Entry, ...]] = []
    for condition in CONDITIONS:
        measure = partial(map_delta, condition=condition, severities=severities)
        rows.append((condition, *(estimate(group, measure) for group in groups)))
    for name, conditions in (("mean of 19", NAMES), ("mean of 20", CONDITIONS)):
        measure = partial(_delta, conditions=conditions, severities=severities)
        rows.append((name, *(estimate(group, measure) for group in groups)))
    header = ("condition", *(group_name(group) for group in groups))
    notes = ("Quantized - fp32 in points.", *_notes(comparisons, severities))
    return Table("Difference by condition", header, tuple(rows), notes)


TABLES: dict[str, Callable[[Sequence[Comparison], Sequence[int]], Table]] = {
    "table1": table1,
    "robustness": robustness,
    "severity": by_severity,
    "cells": by_condition,
}
"""Name of a table -> its function."""


def group_name(group: Sequence[Comparison]) -> str:
    """Returns the common name of runs that differ in their seed: ``yolov5n lsq 8``."""
    run = group[0].pair.quantized
    return f"{run.model.removesuffix('.yaml')} {run.label}"


def missing_notes(comparisons: Sequence[Comparison], severities: Sequence[int]) -> list[str]:
    """Returns one sentence per run that lacks conditions, naming them."""
    runs = {id(run): run for one in comparisons for run in (one.pair.fp32, one.pair.quantized)}
    notes = []
    for run in runs.values():
        lacking = [f"{name}-{level}" for name, level in missing_conditions(run, severities)]
        if lacking:
            notes.append(f"Not measured, left empty: {run.run_id}: {', '.join(lacking)}.")
    return notes


def _mean(quantized: Values, fp32: Values, conditions: Sequence[str], severities: Sequence[int]) -> Number:
    return mean_over(quantized, conditions, severities)


def _relative(quantized: Values, fp32: Values, conditions: Sequence[str], severities: Sequence[int]) -> Number:
    return relative_performance(
        mean_over(quantized, conditions, severities), mean_over(quantized, (CLEAN,), severities)
    )


def _delta(quantized: Values, fp32: Values, conditions: Sequence[str], severities: Sequence[int]) -> Number:
    return mean_over(quantized, conditions, severities) - mean_over(fp32, conditions, severities)


def _improvement(quantized: Values, fp32: Values, conditions: Sequence[str], severities: Sequence[int]) -> Number:
    return error_improvement(mean_over(fp32, conditions, severities), mean_over(quantized, conditions, severities))


def _by_group(
    title: str,
    comparisons: Sequence[Comparison],
    severities: Sequence[int],
    columns: dict[str, Measure],
    notes: tuple[str, ...],
) -> Table:
    rows: list[tuple[Entry, ...]] = []
    for group in by_seed(comparisons):
        run = group[0].pair.quantized
        given = (run.model_name, run.data, run.label, str(len(group)))
        rows.append((*given, *(estimate(group, measure) for measure in columns.values())))
    header = ("model", "data", "method", "seeds", *columns)
    return Table(title, header, tuple(rows), (*notes, *_notes(comparisons, severities)))


def _notes(comparisons: Sequence[Comparison], severities: Sequence[int]) -> tuple[str, ...]:
    runs = [one.pair.quantized for one in comparisons]
    sets = sorted({f"{run.n_images} images of {run.data}/{run.split}, preset {run.preset}" for run in runs})
    metrics = ", ".join(dict.fromkeys(run.metric for run in runs))
    about = f"{metrics}; severities {', '.join(map(str, severities)) or 'none'}; {'; '.join(sets)}."
    notes = [about]
    if any(one.quantized and one.fp32 for one in comparisons):
        notes.append("[a, b]: 95 % interval, paired bootstrap over images; it does not cover other seeds.")
    if any(len(group) > 1 for group in by_seed(comparisons)):
        notes.append("± standard deviation over seeds.")
    warned = warnings_of([one.pair for one in comparisons])
    return (*notes, *warned, *missing_notes(comparisons, severities))
