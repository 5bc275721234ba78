"""Figures of a noise report: noise against bits, predicted against measured loss, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from qreg_yolo.analysis.plots.style import COLUMN, LINES, MARKERS, PAGE, SMALL, TEXT, axes_for
from qreg_yolo.quant.spec import FLOAT_BITS

Report = Mapping[str, Any]
"""Plain values, as `qreg_yolo.noise.study.report` gives them."""
_BARS = 4
"""The width whose layers are drawn, where it was measured."""


def row_name(row: Report) -> str:
    """Returns the name of a row: its method, those that quantize weights alike, and whether it was trained so.

    >>> row_name({"method": "pact", "shared_with": ["dorefa"], "bits": 4, "trained": False})
    'pact = dorefa'
    """
    if row["bits"] == FLOAT_BITS:
        return "full precision"
    name = " = ".join([row["method"], *row["shared_with"]])
    return f"{name}, as trained" if row["trained"] else name


def draw_noise(report: Report) -> tuple[Figure, list[Axes]]:
    """Returns the whole figure: noise against bits, predicted against measured loss (where it was measured), layers."""
    with_losses = any(row["losses"] for row in report["rows"])
    figure = Figure(figsize=(PAGE, 5.6), layout="constrained")
    rows = figure.add_gridspec(2, 2)
    axes = [figure.add_subplot(rows[0, 0] if with_losses else rows[0, :])]
    draw_noise_against_bits(report, axes[0])
    if with_losses:
        axes.append(figure.add_subplot(rows[0, 1]))
        draw_predicted_against_measured(report, axes[1])
    axes.append(figure.add_subplot(rows[1, :]))
    draw_layers(report, axes[-1])
    return figure, axes


def draw_noise_against_bits(report: Report, ax: Axes | None = None) -> tuple[Figure, Axes]:
    """Returns the noise over the weights' own variance against the width, with the prediction of the uniform model.

    Args:
        report: The report.
        ax: Where to draw; None: a new figure of one column's width.
    """
    figure, ax = axes_for(ax, COLUMN, 2.6)
    for number, (name, rows) in enumerate(_methods(report).items()):
        points = sorted((row for row in rows if row["ratio"]), key=lambda row: row["bits"])
        bits = [row["bits"] for row in points]
        style: dict[str, Any] = {
            "color": LINES[number % len(LINES)],
            "marker": MARKERS[number % len(MARKERS)],
            "markersize": 3.5,
        }
        ax.plot(bits, [row["ratio"] for row in points], linewidth=1.2, label=name, **style)
        uniform = [row["sigma2_uniform"] / row["variance"] for row in points]
        ax.plot(bits, uniform, "--", color=style["color"], linewidth=0.9)
    ax.set_yscale("log")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    own = [(row["bits"], row["ratio"]) for row in report["rows"] if row["trained"] and row["ratio"]]
    if own:
        ax.plot(*zip(*own, strict=True), "*", color="black", markersize=7, label="as trained")
    if drawn := [row["bits"] for row in report["rows"] if row["ratio"]]:
        ax.set_xlim(min(drawn) - 0.5, max(drawn) + 0.5)
    _finish(ax, "bits of the weights", "noise, σ² / Var w")
    _legend(ax, [Line2D([], [], linestyle="--", color="0.4", linewidth=0.9, label="uniform model, s²/12")])
    return figure, ax


def draw_predicted_against_measured(report: Report, ax: Axes | None = None) -> tuple[Figure, Axes]:
    """Returns the measured increase of every loss against the predicted one, on logarithmic axes.

    Filled marks: under Gaussian noise, with both intervals; hollow ones: under the quantization error. What is not
    above 0, or not finite, has no place on these axes; the title counts it.
    """
    figure, ax = axes_for(ax, COLUMN, 2.6)
    methods = _methods(report, trained=True)
    losses = list(dict.fromkeys(name for row in report["rows"] for name in row["losses"]))
    ends: list[float] = []
    left_out = 0
    for colour, rows in zip(_cycle(LINES, len(methods)), methods.values(), strict=True):
        for found, marker in ((row["losses"][loss], mark) for row in rows for loss, mark in _marks(losses).items()):
            for part, face in (("gaussian", colour), ("quantization", "none")):
                x, y = found["predicted"]["value"], found[part]["value"]
                if x is None or y is None or min(x, y) <= 0:
                    left_out += 1
                    continue
                ends += [x, y]
                style: dict[str, Any] = {"marker": marker, "color": colour, "markerfacecolor": face, "markersize": 4}
                if part == "gaussian":
                    style |= {"xerr": _reach(found["predicted"]), "yerr": _reach(found[part]), "elinewidth": 0.7}
                ax.errorbar([x], [y], linestyle="none", **style)
    ax.set(xscale="log", yscale="log")
    span = [min(ends, default=0.1) / 2, max(ends, default=1.0) * 2]
    ax.plot(span, span, color="0.6", linewidth=0.8, zorder=0)
    _finish(ax, "predicted increase of the loss", "measured increase")
    if left_out:
        ax.set_title(f"{left_out} not above 0 or not finite, left out", fontsize=SMALL, loc="left")
    swatches = [
        Line2D([], [], color=colour, linewidth=2.5, label=name)
        for colour, name in zip(_cycle(LINES, len(methods)), methods, strict=True)
    ]
    shapes = [_mark(marker, "0.3", loss) for loss, marker in _marks(losses).items()]
    _legend(
        ax, [*swatches, *shapes, _mark("o", "0.3", "Gaussian noise"), _mark("o", "0.3", "quantization error", "none")]
    )
    return figure, ax


def draw_layers(report: Report, ax: Axes | None = None) -> tuple[Figure, Axes]:
    """Returns the noise of each layer over its weight's own variance, at one width; hatched: from clipped weights.

    The width is 4 bits where that was measured, else the lowest; without a sweep that of the network's own quantizers.
    """
    figure, ax = axes_for(ax, PAGE, 2.6)
    swept = any(row["layers"] and not row["trained"] for row in report["rows"])
    widths = sorted({row["bits"] for row in report["rows"] if row["layers"] and not (swept and row["trained"])})
    if not widths:
        ax.set_axis_off()
        ax.text(0.5, 0.5, "no layer is quantized", ha="center", transform=ax.transAxes, fontsize=TEXT)
        return figure, ax
    width = _BARS if _BARS in widths else widths[0]
    found = {
        name: row for name, rows in _methods(report, trained=not swept).items() for row in rows if row["bits"] == width
    }
    layers = list(dict.fromkeys(layer["name"] for row in found.values() for layer in row["layers"]))
    share = 0.8 / max(len(found), 1)
    for number, (name, row) in enumerate(found.items()):
        noisy = [layer for layer in row["layers"] if layer["variance"] > 0]
        x = np.array([layers.index(layer["name"]) for layer in noisy]) + share * (number - (len(found) - 1) / 2)
        heights = np.array([layer["ratio"] for layer in noisy])
        clipped = np.array([layer["sigma2_clipped"] / layer["variance"] for layer in noisy])
        colour = LINES[number % len(LINES)]
        ax.bar(x, heights, share, color=colour, label=name)
        ax.bar(x, clipped, share, color="none", edgecolor="white", hatch="//////", linewidth=0)
    ax.set_xticks(range(len(layers)), layers, rotation=90, fontsize=_size(len(layers)))
    _finish(ax, "", f"noise at {width} bits, σ² / Var w")
    ax.tick_params(axis="x", labelsize=_size(len(layers)))
    ax.margins(x=0.01)
    ax.legend(fontsize=SMALL, frameon=False, ncols=len(found), loc="lower right", bbox_to_anchor=(1.0, 1.0))
    return figure, ax


def _methods(report: Report, *, trained: bool = False) -> dict[str, list[Report]]:
    """Returns the quantized rows by method; those of the checkpoint's own quantizers by themselves, where asked for."""
    found: dict[str, list[Report]] = {}
    for row in report["rows"]:
        if row["bits"] != FLOAT_BITS and (trained or not row["trained"]):
            found.setdefault(row_name(row), []).append(row)
    return found


def _reach(interval: Mapping[str, float | None]) -> list[list[float]]:
    """Returns the lengths of an error bar down and up, above 0; an end below 0 is drawn near 0."""
    value, low, high = interval["value"], interval["lo"], interval["hi"]
    if value is None or low is None or high is None:
        return [[0.0], [0.0]]
    return [[min(value - low, value * 0.9)], [high - value]]


def _cycle(values: Sequence[str], count: int) -> list[str]:
    return [values[i % len(values)] for i in range(count)]


def _marks(losses: Sequence[str]) -> dict[str, str]:
    return dict(zip(losses, _cycle(MARKERS, len(losses)), strict=True))


def _mark(marker: str, colour: str, label: str, face: str | None = None) -> Line2D:
    return Line2D(
        [], [], marker=marker, linestyle="none", color=colour, markerfacecolor=face or colour, markersize=4, label=label
    )


def _size(count: int) -> float:
    """Returns the font size at which this many names fit side by side on a page."""
    return float(np.clip(PAGE * 72 / (1.6 * max(count, 1)), 3.5, SMALL))


def _finish(ax: Axes, x_label: str, y_label: str) -> None:
    ax.set_xlabel(x_label, fontsize=TEXT)
    ax.set_ylabel(y_label, fontsize=TEXT)
    ax.tick_params(labelsize=SMALL)
    ax.grid(axis="y", color="0.9", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def _legend(ax: Axes, more: Sequence[Line2D] = ()) -> None:
    handles = [*ax.get_legend_handles_labels()[0], *more]
    if handles:
        ax.legend(handles=handles, fontsize=SMALL, frameon=False)
