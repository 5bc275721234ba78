"""Figures: each function takes data and returns ``(figure, axes)``; nothing here touches pyplot or its global state."""

from __future__ import annotations

from qreg_yolo.analysis.plots.curves import draw_loss_curves, draw_paths, draw_severity_curves
from qreg_yolo.analysis.plots.heatmaps import draw_grid, draw_heatmap, draw_legend
from qreg_yolo.analysis.plots.style import PALETTES, save

__all__ = [
    "PALETTES",
    "draw_grid",
    "draw_heatmap",
    "draw_legend",
    "draw_loss_curves",
    "draw_paths",
    "draw_severity_curves",
    "save",
]  # fmt: skip
