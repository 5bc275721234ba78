"""Tables and figures from files to files; each function returns the text to print."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from qreg_yolo.analysis.accuracy import accuracy
from qreg_yolo.analysis.comparison import Comparison, by_seed, compare, estimate
from qreg_yolo.analysis.curves import read_curves
from qreg_yolo.analysis.loss_tables import loss_matched_table, overfitting_table
from qreg_yolo.analysis.measurements import Measurement, Selection, pair_with_baselines, read_measurements, warnings_of
from qreg_yolo.analysis.plots import (
    draw_grid,
    draw_heatmap,
    draw_legend,
    draw_loss_curves,
    draw_paths,
    draw_severity_curves,
    save,
)
from qreg_yolo.analysis.plots.heatmaps import SCALE_LABEL
from qreg_yolo.analysis.plots.style import check_figure_path, palette_of
from qreg_yolo.analysis.table import FORMATS, Estimate, Table, entry_text
from qreg_yolo.analysis.tables import TABLES, group_name, missing_notes
from qreg_yolo.corrupt.spec import NAMES, SEVERITIES
from qreg_yolo.errors import MissingFileError, did_you_mean
from qreg_yolo.io import files
from qreg_yolo.io.results_csv import EPOCH
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.metrics.conditions import CLEAN, DEFAULT_LAYOUT, read_layout
from qreg_yolo.metrics.robustness import Number, Values, map_delta, mean_over
from qreg_yolo.quant.spec import FLOAT_BITS
from qreg_yolo.terminal import Progress, no_progress

ACCURACY = "accuracy"
"""Kind of the table of clean accuracies; the others are in `TABLES`."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Selects the records to compare, and the way."""

    records: Path
    selection: Selection = field(default_factory=Selection)
    baselines: Sequence[str] = ()
    """Run ids of the fp32 runs to compare with; none: all fp32 runs."""
    severities: Sequence[int] = ()
    """Severities to average over; none: all in the records."""
    per_image: Path | None = None
    """Folder of per-image files; None: ``per_image`` next to the records."""
    intervals: bool = True
    """Whether to compute bootstrap intervals where per-image files exist."""
    progress: Progress = no_progress
    """Reports the progress of the bootstrap."""


def table(
    request: Request,
    kind: str = "table1",
    format_: str = "text",
    out: Path | None = None,
    reference: str | None = None,
) -> str:
    """Returns a table as text, having written it where ``out`` is given.

    Args:
        request: The records.
        kind: `ACCURACY`, or one of `TABLES`.
        format_: One of `FORMATS`.
        out: The file; None: none.
        reference: Variant that accuracies are compared with; None: the fp32 baselines.

    Raises:
        ConfigError: An unknown kind, format or reference, or whatever `read_measurements` refuses.
        AnalysisError: No baseline, several baselines, or files that contradict each other.
    """
    _choice("kind", kind, (*TABLES, ACCURACY))
    if reference is not None and kind != ACCURACY:
        raise ConfigError(f"--reference {reference} applies to --kind {ACCURACY}, not to {kind}. Remove it.")
    write = FORMATS[_choice("format", format_, FORMATS)]
    if out is not None and not out.parent.is_dir():
        raise MissingFileError(f"{out.parent} is not a folder. Make it first, or give another path.")
    made = _accuracies(request, reference) if kind == ACCURACY else TABLES[kind](*_compared(request))
    text = write(made)
    if out is not None:
        files.write_text(out, text + "\n")
    return text


def _accuracies(request: Request, reference: str | None) -> Table:
    if request.baselines:
        raise ConfigError(
            f"--baseline does not apply to --kind {ACCURACY}. Use --reference, or leave runs out with --runs."
        )
    runs = read_measurements(request.records, request.selection)
    folder = _per_image(request) if request.intervals else None
    return accuracy(runs, folder, reference, progress=request.progress)


def heatmap(request: Request, out: Path, *, layout: Path | None = None, palette: str = "red-green") -> str:
    """Writes the heatmap of one comparison, or the grid of several: methods in rows, bits in columns.

    Weights alone and weights with activations are two methods. Several models get a row each; one is the title.

    Returns:
        What was drawn, what is missing and what to beware of.
    """
    check_figure_path(out)
    palette_of(palette)
    places = read_layout(layout) if layout else DEFAULT_LAYOUT
    comparisons, severities = _compared(request)
    groups = by_seed(comparisons)
    conditions = [name for row in places for name in row]
    models = {group[0].pair.quantized.model_name for group in groups}
    heatmaps = {}
    for group in groups:
        key = _place(group[0].pair.quantized, with_model=len(models) > 1)
        if key in heatmaps:
            raise ConfigError(
                f"{request.records}: {group_name(group)} was measured on several sets of images. Choose one with "
                "--data, --split or --preset."
            )
        heatmaps[key] = {
            name: estimate(group, partial(map_delta, condition=name, severities=severities)) for name in conditions
        }
    label = f"{_metric(comparisons)}\n{SCALE_LABEL}"  # in two lines: one row of heatmaps is narrow
    if len(heatmaps) == 1:
        figure, _ = draw_heatmap(next(iter(heatmaps.values())), layout=places, palette=palette, label=label)
    else:
        ordered = dict(sorted(heatmaps.items(), key=lambda item: -_width(item[0][1])))
        title = models.pop() if len(models) == 1 else ""
        figure, _ = draw_grid(ordered, layout=places, palette=palette, label=label, title=title)
    save(figure, out)
    drawn = f"{out}: {', '.join(map(group_name, groups))}; severities {', '.join(map(str, severities)) or 'none'}."
    return _with_notes(drawn, comparisons, severities)


def severity_curves(request: Request, out: Path, *, corruption: str | None = None) -> str:
    """Writes the metric against the severity, one line per model: of one corruption, or the mean over the 19.

    Returns:
        The numbers, what is missing and what to beware of.
    """
    check_figure_path(out)
    if corruption is not None:
        _choice("corruption", corruption, NAMES)
    conditions = (corruption,) if corruption else NAMES
    comparisons, severities = _compared(request)
    curves: dict[str, dict[int, Estimate]] = {}
    for group in by_seed(comparisons):
        baseline = f"{group[0].pair.fp32.model_name} fp32"
        for name, quantized in ((baseline, False), (group_name(group), True)):
            points = {
                severity: estimate(group, partial(_side, conditions=where, severity=severity, quantized=quantized))
                for severity, where in [(0, (CLEAN,)), *((severity, conditions) for severity in severities)]
            }
            curves.setdefault(name, points)
    label = f"{_metric(comparisons)} [points]"
    figure, _ = draw_severity_curves(curves, label=label if corruption is None else f"{label}, {corruption}")
    save(figure, out)
    lines = [
        f"{name}: " + ", ".join(f"{severity}: {entry_text(one)}" for severity, one in points.items())
        for name, points in curves.items()
    ]
    return _with_notes("\n".join([f"{out}:", *lines]), comparisons, severities)


def loss_curves(
    sources: Sequence[str],
    out: Path,
    *,
    column: str = "val/box_loss",
    x: str = EPOCH,
    smoothing: float = 0.0,
    format_: str = "text",
) -> str:
    """Writes one column of one or many ``results.csv`` over the epochs, or against another column.

    Returns:
        A line about the figure; for a validation loss also the overfitting table and, against a training loss, the
        loss-matched comparison.
    """
    check_figure_path(out)
    write = FORMATS[_choice("format", format_, FORMATS)]
    if x != EPOCH and smoothing:
        raise ConfigError(f"--smoothing applies to epochs, not to --x {x}. Remove one of the two.")
    curves = read_curves(sources, column)
    if x == EPOCH:
        figure, _ = draw_loss_curves(curves, label=column, smoothing=smoothing)
    else:
        across = read_curves(sources, x)
        figure, _ = draw_paths(across, curves, x_label=x, label=column)
    save(figure, out)
    shown = ", ".join(f"{label} ({len(seeds)} run{'s' * (len(seeds) > 1)})" for label, seeds in curves.items())
    drawn = f"{out}: {column} of {shown}."
    if not re.match(r"val/.*loss$", column):
        return drawn
    try:
        training = read_curves(sources, column.replace("val/", "train/", 1))
    except ConfigError:  # a run that did not record it
        training = {}
    tables = [overfitting_table(curves, training, column)]
    if re.match(r"train/.*loss$", x) and len(curves) > 1:
        tables.append(loss_matched_table(across, curves, x, column))
    return "\n\n".join([drawn, *map(write, tables)])


def legend(out: Path, layout: Path | None = None) -> str:
    """Writes the legend, with the name of each condition in its place."""
    check_figure_path(out)
    figure, _ = draw_legend(layout=read_layout(layout) if layout else DEFAULT_LAYOUT)
    save(figure, out)
    return f"{out}: the places of the conditions."


def _metric(comparisons: Sequence[Comparison]) -> str:
    """Returns the compared metric, or several for records of both tracks."""
    return ", ".join(dict.fromkeys(one.pair.quantized.metric for one in comparisons))


def _side(quantized_values: Values, fp32: Values, conditions: Sequence[str], severity: int, quantized: bool) -> Number:
    return mean_over(quantized_values if quantized else fp32, conditions, (severity,))


def _place(run: Measurement, *, with_model: bool) -> tuple[str, str]:
    """Returns the row and the column of a run's heatmap."""
    weights_alone = run.act_bits == FLOAT_BITS
    row = "\n".join(
        [*([run.model_name] if with_model else []), run.title, *(["weights only"] if weights_alone else [])]
    )
    return row, f"{run.weight_bits}-bit" if weights_alone or run.weight_bits == run.act_bits else run.bits


def _width(bits: str) -> float:
    """Returns the sort key of a column: the weights' width, then the activations'."""
    numbers = [int(number) for number in bits.removesuffix("-bit").removeprefix("w").split("a")]
    return numbers[0] + numbers[-1] / 100


def _compared(request: Request) -> tuple[list[Comparison], tuple[int, ...]]:
    for severity in request.severities:
        if severity not in SEVERITIES:
            raise ConfigError(f"severity={severity} does not exist. Severities are 1, 2, 3, 4 and 5.")
    pairs = pair_with_baselines(read_measurements(request.records, request.selection), request.baselines)
    measured = {severity for pair in pairs for run in (pair.quantized, pair.fp32) for severity in run.severities}
    folder = _per_image(request)
    comparisons = compare(pairs, folder if request.intervals else None, progress=request.progress)
    return comparisons, tuple(sorted(set(request.severities) or measured)) or SEVERITIES


def _per_image(request: Request) -> Path:
    """Returns the folder of per-image files; raises where one that was asked for does not exist."""
    folder = request.per_image or request.records.parent / "per_image"
    if request.per_image is not None and not folder.is_dir():
        raise MissingFileError(f"{folder} is not a folder. Give the folder per_image that 'robustness' wrote.")
    return folder


def _choice(name: str, value: str, choices: Sequence[str] | Mapping[str, object]) -> str:
    if value not in choices:
        raise ConfigError(f"{name}={value!r} is not one of: {', '.join(choices)}.{did_you_mean(value, choices)}")
    return value


def _with_notes(text: str, comparisons: Sequence[Comparison], severities: Sequence[int]) -> str:
    warned = warnings_of([one.pair for one in comparisons])
    return "\n".join([text, *warned, *missing_notes(comparisons, severities)])
