"""Curves: losses over epochs (QReg, arXiv 2206.12372, Fig. 1), and accuracy over severities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from qreg_yolo.analysis.curves import Curve, smoothed
from qreg_yolo.analysis.plots.style import COLUMN, LINES, MARKERS, SMALL, TEXT, axes_for, literal
from qreg_yolo.analysis.table import Estimate
from qreg_yolo.metrics.average_precision import Array

_WITHIN = 4
"""Longest legend inside the axes; a longer one is placed next to them."""


def draw_loss_curves(
    curves: Mapping[str, Sequence[Curve]],
    ax: Axes | None = None,
    *,
    label: str = "val/box_loss",
    smoothing: float = 0.0,
) -> tuple[Figure, Axes]:
    """Draws one line per label; several seeds as their mean in a band of one standard deviation (n - 1).

    A band covers the epochs that every seed reached: a mean over fewer and fewer runs would jump.

    Args:
        curves: Label -> one curve per seed.
        ax: Axes to draw on; None: a new figure of one column's width.
        label: Label of the vertical axis.
        smoothing: Weight of the past in the exponential average, 0 (off) up to but without 1; the measured values
            stay, faint.
    """
    figure, ax = axes_for(ax, COLUMN, 2.5)
    for number, (name, seeds) in enumerate(curves.items()):
        colour = LINES[number % len(LINES)]
        epochs, values = aligned(seeds)
        mean = values.mean(0)
        shown = f"{name} (n = {len(seeds)})" if len(seeds) > 1 else name
        if smoothing:
            ax.plot(epochs, mean, color=colour, linewidth=0.7, alpha=0.3)
        style = "-" if number < len(LINES) else "--"
        dot = "o" if len(epochs) == 1 else None  # a line of one point is invisible
        line = smoothed(mean, smoothing)
        ax.plot(epochs, line, style, color=colour, linewidth=1.3, marker=dot, label=literal(shown))
        if len(seeds) > 1:
            sd = smoothed(values.std(0, ddof=1), smoothing)
            ax.fill_between(epochs, line - sd, line + sd, color=colour, alpha=0.18, linewidth=0)
    _finish(ax, "epoch", label)
    if any(len(seeds) > 1 for seeds in curves.values()):
        ax.set_title("mean ± standard deviation over seeds", fontsize=SMALL, loc="left")
    return figure, ax


def draw_paths(
    across: Mapping[str, Sequence[Curve]],
    up: Mapping[str, Sequence[Curve]],
    ax: Axes | None = None,
    *,
    x_label: str = "train/box_loss",
    label: str = "val/box_loss",
) -> tuple[Figure, Axes]:
    """Draws one column of training runs against another: a line per run, from its first epoch to a dot at its last.

    A loss on the horizontal axis runs downwards, so training runs to the right. Two networks at one place of it
    have fitted their training set equally well; by the epoch, one that only learns more slowly seems to overfit less.

    Args:
        across: Label -> one curve per seed, of the horizontal axis.
        up: The same runs' other column.
        ax: Axes to draw on; None: a new figure of one column's width.
        x_label: Label of the horizontal axis.
        label: Label of the vertical axis.
    """
    figure, ax = axes_for(ax, COLUMN, 2.5)
    for number, (name, seeds) in enumerate(up.items()):
        colour, style = LINES[number % len(LINES)], "-" if number < len(LINES) else "--"
        for seed, (x, y) in enumerate(zip(across[name], seeds, strict=True)):
            _, (xs, ys) = aligned([x, y])
            ax.plot(xs, ys, style, color=colour, linewidth=1.1, label=None if seed else literal(name))
            ax.plot(xs[-1:], ys[-1:], "o", color=colour, markersize=3.5)
    _finish(ax, x_label, label)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6))
    if x_label.endswith("loss"):
        ax.invert_xaxis()
    ax.set_title("dot: last epoch", fontsize=SMALL, loc="left")
    return figure, ax


def draw_severity_curves(
    curves: Mapping[str, Mapping[int, Estimate]], ax: Axes | None = None, *, label: str = "mAP50-95 [points]"
) -> tuple[Figure, Axes]:
    """Draws one line per model: its metric against the severity of the corruptions, 0 for clean images.

    Args:
        curves: Label -> severity -> points. Standard deviations over seeds are drawn as bars; with one
            seed, the intervals over images.
        ax: Axes to draw on; None: a new figure of one column's width.
        label: Label of the vertical axis.
    """
    figure, ax = axes_for(ax, COLUMN, 2.5)
    bars = ""
    for number, (name, points) in enumerate(curves.items()):
        there = [(severity, one) for severity, one in sorted(points.items()) if not np.isnan(one.value)]
        x = [severity + 0.06 * (number - (len(curves) - 1) / 2) for severity, _ in there]  # bars side by side
        values = np.array([one.value for _, one in there])
        lower, upper = (np.array([_reach(one)[side] for _, one in there]) for side in (0, 1))
        ax.errorbar(
            x, values, yerr=[np.nan_to_num(lower), np.nan_to_num(upper)], color=LINES[number % len(LINES)],
            marker=MARKERS[number % len(MARKERS)], markersize=3.5, linewidth=1.2, elinewidth=0.8, capsize=1.5,
            label=literal(name),
        )  # fmt: skip
        seeds = max((one.n for _, one in there), default=1)
        if not np.isnan(lower).all():
            bars = "standard deviation over seeds" if seeds > 1 else "95 % interval over images"
    _finish(ax, "severity (0: clean)", label)
    if bars:
        ax.set_title(f"bars: {bars}", fontsize=SMALL, loc="left")
    return figure, ax


def aligned(seeds: Sequence[Curve]) -> tuple[Array, Array]:
    """Returns the epochs in which all curves have a value, and the values: `(epochs,)` and `(seeds, epochs)`.

    An epoch without validation has none (nan).
    """
    known = [set(one.epochs[~np.isnan(one.values)].tolist()) for one in seeds]
    epochs = np.array(sorted(set.intersection(*known)))
    return epochs, np.stack([one.values[np.searchsorted(one.epochs, epochs)] for one in seeds])


def _reach(one: Estimate) -> tuple[float, float]:
    """Returns the lengths of an estimate's error bar down and up."""
    return (one.sd, one.sd) if one.n > 1 else (one.value - one.lo, one.hi - one.value)


def _finish(ax: Axes, x_label: str, y_label: str) -> None:
    ax.set_xlabel(x_label, fontsize=TEXT)
    ax.set_ylabel(y_label, fontsize=TEXT)
    ax.tick_params(labelsize=SMALL)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(color="0.9", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    if lines := ax.get_legend_handles_labels()[0]:
        legend = ax.legend(fontsize=SMALL, frameon=False)
        if len(lines) > _WITHIN:
            legend.set(loc="center left", bbox_to_anchor=(1, 0.5))
