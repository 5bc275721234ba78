"""Style of all figures: sizes for print, colours, and files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from qreg_yolo.errors import MissingFileError, did_you_mean
from qreg_yolo.io import files
from qreg_yolo.io.strict_yaml import ConfigError

COLUMN = 3.5
"""Width of one column of a two-column page, inches."""
PAGE = 7.16
"""Width of both, inches."""
TEXT = 8.0
"""Font size of labels, points."""
SMALL = 6.5
"""Font size of ticks and notes, points."""
DOTS_PER_INCH = 300
PALETTES: dict[str, LinearSegmentedColormap] = {
    name: LinearSegmentedColormap.from_list(name, colours)
    for name, colours in {
        "red-green": ("#a50f15", "#ef7a62", "#f7f7f5", "#74c07a", "#00682f"),
        "orange-blue": ("#8f4300", "#f0933c", "#f7f7f5", "#6aaede", "#0b4a8f"),
    }.items()
}
"""Name -> diverging scale, worse to better; ``orange-blue`` can be told apart by colour-blind readers."""
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Colours of lines (Okabe and Ito), which colour-blind readers can tell apart too."""
MARKERS = "osD^vPX"
_SUFFIXES = (".png", ".svg", ".pdf")


def literal(text: str) -> str:
    """Escapes a text for matplotlib: no formula between ``$``, no entry hidden by a leading ``_``."""
    shown = text.replace("$", r"\$")
    return f"\u200b{shown}" if shown.startswith("_") else shown


def palette_of(name: str) -> LinearSegmentedColormap:
    """Returns the scale of that name.

    Raises:
        ConfigError: An unknown palette.
    """
    if name not in PALETTES:
        raise ConfigError(f"palette={name!r} is not one of: {', '.join(PALETTES)}.{did_you_mean(name, PALETTES)}")
    return PALETTES[name]


def axes_for(ax: Axes | None, width: float, height: float) -> tuple[Figure, Axes]:
    """Returns the axes given and their figure, or new ones of that size (inches)."""
    if ax is None:
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.add_subplot()
    figure_of = ax.figure
    while not isinstance(figure_of, Figure):
        figure_of = figure_of.figure
    return figure_of, ax


def check_figure_path(path: Path) -> None:
    """Raises where a figure cannot be written to a path; called before the work.

    Raises:
        ConfigError: A suffix other than ``.png``, ``.svg`` and ``.pdf``.
        FileNotFoundError: The folder does not exist.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"{path}: '{path.suffix}' is not a format of figures. Give one of: {', '.join(_SUFFIXES)}.")
    if not path.parent.is_dir():
        raise MissingFileError(f"{path.parent} is not a folder. Make it first, or give another path.")


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG (300 dpi), SVG or PDF, by the suffix, atomically.

    Raises:
        ConfigError: Another suffix.
        OSError: The folder is missing or read-only, or the disk is full.
    """
    check_figure_path(path)
    kind = path.suffix.lower().removeprefix(".")
    metadata: dict[str, Any] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
    data = io.BytesIO()
    figure.savefig(data, format=kind, dpi=DOTS_PER_INCH, metadata=metadata)
    files.write_bytes(path, data.getvalue())
