"""The heatmaps of QReg (arXiv 2206.12372), Figs. 2 to 6: the change by quantization under each of 20 conditions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from qreg_yolo.analysis.plots.style import COLUMN, PAGE, SMALL, TEXT, axes_for, palette_of
from qreg_yolo.analysis.table import Estimate
from qreg_yolo.metrics.conditions import DEFAULT_LAYOUT, Layout

Heatmap = Mapping[str, Estimate]
"""Condition -> difference in points; a condition that is not there, or nan, was not measured."""
SCALE_LABEL = "quantized − fp32 [points]"
_SMALLEST = 4.5
"""Font size of values of a dense grid, points: legible in print; from 10 on they lose their decimal."""
_OPEN = "○ 95 % interval contains 0"
_MISSING = "hatched: not measured"


def draw_heatmap(
    heatmap: Heatmap,
    ax: Axes | None = None,
    *,
    layout: Layout = DEFAULT_LAYOUT,
    limit: float | None = None,
    palette: str = "red-green",
    label: str = SCALE_LABEL,
) -> tuple[Figure, Axes]:
    """Draws one heatmap with the conditions' names, its scale and a legend of its marks.

    Args:
        heatmap: The differences.
        ax: Axes to draw on; None: a new figure of one column's width.
        layout: The places of the conditions.
        limit: End of the scale, points; None: the largest difference.
        palette: A name in ``PALETTES``.
        label: Text of the scale.
    """
    figure, ax = axes_for(ax, COLUMN, 0.62 * len(layout) + 0.75)
    scale = _scale([heatmap], layout, limit, palette)
    _draw_conditions(ax, heatmap, layout, scale, value_size=TEXT, named=True)
    _draw_scale(figure, [ax], scale, label)
    if note := _note([heatmap], layout):
        ax.set_xlabel(note, fontsize=SMALL)
    return figure, ax


def draw_grid(
    heatmaps: Mapping[tuple[str, str], Heatmap],
    *,
    layout: Layout = DEFAULT_LAYOUT,
    palette: str = "red-green",
    label: str = SCALE_LABEL,
    title: str = "",
) -> tuple[Figure, NDArray[np.object_]]:
    """Draws a grid of heatmaps on one shared scale, at the width of a page; axes as ``(rows, columns)``.

    Args:
        heatmaps: (row, column) -> heatmap, for example ("lsq", "4-bit"); rows and columns keep the order of the keys.
        layout: The places of the conditions; `draw_legend` shows the names.
        palette: A name in ``PALETTES``.
        label: Text of the scale.
        title: Text above the names of the columns.
    """
    rows, columns = (list(dict.fromkeys(key[side] for key in heatmaps)) for side in (0, 1))
    cell = min((PAGE - 1.0) / (len(columns) * len(layout[0])), 0.5)  # inches
    width = cell * len(columns) * len(layout[0]) + 1.0
    height = (cell * 0.8 * len(layout) + 0.12) * len(rows) + 0.45
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    scale = _scale(heatmaps.values(), layout, None, palette)
    size = min(TEXT, max(_SMALLEST, cell * 16))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            ax = axes[i, j]
            _draw_conditions(ax, heatmaps.get((row, column), {}), layout, scale, value_size=size, named=False)
            if i == 0:
                ax.set_title(column, fontsize=TEXT)
            if j == 0:
                ax.set_ylabel(row, fontsize=TEXT)
    _draw_scale(figure, list(axes.flat), scale, label)
    if title:
        figure.set_size_inches(width, height + 0.2)
        figure.suptitle(title, fontsize=TEXT)
    everything = [heatmaps.get((row, column), {}) for row in rows for column in columns]
    if note := _note(everything, layout):
        figure.supxlabel(note, fontsize=SMALL)
    return figure, axes


def draw_legend(
    ax: Axes | None = None,
    *,
    layout: Layout = DEFAULT_LAYOUT,
    thumbnails: Mapping[str, NDArray[np.uint8]] | None = None,
) -> tuple[Figure, Axes]:
    """Draws the legend (QReg, Fig. 3a): the name of each condition in its place.

    Args:
        ax: Axes to draw on; None: a new figure of one column's width.
        layout: The places of the conditions.
        thumbnails: Condition -> an example, ``(height, width, 3)`` RGB uint8; conditions without one stay white.
    """
    figure, ax = axes_for(ax, COLUMN, (0.8 if thumbnails else 0.5) * len(layout) + 0.1)
    _blank(ax, layout)
    for x, y, name in _places(layout):
        thumbnail = (thumbnails or {}).get(name)
        words = name.replace("_", "\n" if thumbnail is None else " ")
        if thumbnail is None:
            ax.add_patch(Rectangle((x, y), 1, 1, facecolor="white", edgecolor="0.5", linewidth=0.6, clip_on=False))
            ax.text(x + 0.5, y + 0.5, words, ha="center", va="center", fontsize=SMALL)
            continue
        image = ax.imshow(_centre(thumbnail), extent=(x + 0.03, x + 0.97, y + 0.97, y + 0.22), aspect="auto", zorder=2)
        image.set_interpolation("antialiased")
        ax.text(x + 0.5, y + 0.11, words, ha="center", va="center", fontsize=SMALL - 1.5)
    _blank(ax, layout)  # imshow moves the limits
    return figure, ax


def _centre(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns the central part of an image in the proportions of a thumbnail, 0.94 : 0.75."""
    height, width = image.shape[:2]
    keep_h, keep_w = min(height, round(width * 0.8)), min(width, round(height * 1.25))
    top, left = (height - keep_h) // 2, (width - keep_w) // 2
    return image[top : top + keep_h, left : left + keep_w]


def _places(layout: Layout) -> Iterable[tuple[int, int, str]]:
    return ((x, y, name) for y, row in enumerate(layout) for x, name in enumerate(row))


def _blank(ax: Axes, layout: Layout) -> None:
    ax.set(xlim=(0, len(layout[0])), ylim=(len(layout), 0), xticks=[], yticks=[], aspect="auto")
    for spine in ax.spines.values():
        spine.set_visible(False)


def _scale(heatmaps: Iterable[Heatmap], layout: Layout, limit: float | None, palette: str) -> ScalarMappable:
    """Returns one scale for all heatmaps, as far below 0 as above."""
    conditions = {name for row in layout for name in row}
    values = [abs(one.value) for heatmap in heatmaps for name, one in heatmap.items() if name in conditions]
    largest = max((value for value in values if math.isfinite(value)), default=0.0)
    end = limit or largest or 1.0
    colours: LinearSegmentedColormap = palette_of(palette)
    return ScalarMappable(Normalize(-end, end), colours)


def _draw_conditions(
    ax: Axes, heatmap: Heatmap, layout: Layout, scale: ScalarMappable, *, value_size: float, named: bool
) -> None:
    _blank(ax, layout)
    for x, y, name in _places(layout):
        one = heatmap.get(name, Estimate(math.nan))
        missing = math.isnan(one.value)
        face = np.ones(4) if missing else np.asarray(scale.to_rgba(np.array([one.value])))[0]
        ink = "0.35" if missing else _ink(face)
        edge = "0.6" if missing else "white"
        patch = Rectangle((x, y), 1, 1, facecolor=tuple(face), edgecolor=edge, linewidth=0.8, clip_on=False)
        if missing:
            patch.set(hatch="////", zorder=1.5)  # above the white borders of its neighbours
        ax.add_patch(patch)
        middle = y + (0.36 if named else 0.5)
        if not missing:
            ax.text(
                x + 0.5,
                middle,
                _value_text(one.value, value_size),
                ha="center",
                va="center",
                fontsize=value_size,
                color=ink,
            )
        if one.sign_is_open:
            ax.plot(
                x + 0.88, y + 0.14, marker="o", markersize=value_size * 0.38, markerfacecolor="none",
                markeredgecolor=ink, markeredgewidth=0.6,
            )  # fmt: skip
        if named:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6} if missing else None
            words = name.replace("_", "\n")
            ax.text(
                x + 0.5, y + 0.76, words, ha="center", va="center", fontsize=SMALL - 1, color=ink, bbox=box,
                linespacing=0.95,
            )  # fmt: skip


def _value_text(value: float, size: float) -> str:
    digits = 0 if size <= _SMALLEST and abs(value) >= 9.95 else 1
    return f"{value:+.{digits}f}".replace("-", "−")


def _ink(face: NDArray[np.float64]) -> str:
    """Returns the colour, black or white, that is legible on ``face``."""
    red, green, blue, _ = face
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"


def _draw_scale(figure: Figure, axes: Sequence[Axes], scale: ScalarMappable, label: str) -> None:
    bar = figure.colorbar(scale, ax=axes, fraction=0.05, pad=0.02, aspect=25)
    bar.set_label(label, fontsize=TEXT)
    bar.ax.tick_params(labelsize=SMALL)
    bar.outline.set_linewidth(0.5)


def _note(heatmaps: Iterable[Heatmap], layout: Layout) -> str:
    """Returns the legend of the marks that occur."""
    conditions = [heatmap.get(name, Estimate(math.nan)) for heatmap in heatmaps for row in layout for name in row]
    marks = [_OPEN] if any(one.sign_is_open for one in conditions) else []
    return "    ".join([*marks, _MISSING] if any(math.isnan(one.value) for one in conditions) else marks)
