"""The plasma of fog and of procedural frost: diamond-square on a torus."""

from __future__ import annotations

import numpy as np

from qreg_yolo.corrupt.draws import Draws, FloatImage


def plasma(side: int, decay: float, rng: Draws) -> FloatImage:
    """Returns a fractal field, `(side, side)` float32, scaled to 0..1 over the whole map.

    Each level fills in the midpoints with the mean of four neighbours plus ``a * U(-a, a)``: the amplitude enters twice
    (as in the original), so it falls by ``decay^2`` per level.

    Args:
        side: A power of two, px.
        decay: What ``a``, 100 at first, is divided by from level to level.
        rng: Three uniform fields per level: squares, then the two sets of diamonds.
    """
    field = np.zeros((side, side), np.float32)
    step, amplitude = side, 100.0
    while step >= 2:
        half = step // 2
        corners = field[::step, ::step]
        across = corners + np.roll(corners, -1, axis=1)
        down = corners + np.roll(corners, -1, axis=0)
        centres = _midpoints(across + np.roll(across, -1, axis=0), amplitude, rng)
        field[half::step, half::step] = centres
        field[::step, half::step] = _midpoints(across + centres + np.roll(centres, 1, axis=0), amplitude, rng)
        field[half::step, ::step] = _midpoints(down + centres + np.roll(centres, 1, axis=1), amplitude, rng)
        step, amplitude = half, amplitude / decay
    field -= field.min()
    field /= field.max()
    return field


def _midpoints(total: FloatImage, amplitude: float, rng: Draws) -> FloatImage:
    """Returns a quarter of the sum of four neighbours, displaced."""
    displaced = rng.uniform(-amplitude, amplitude, total.shape)
    displaced *= np.float32(amplitude)
    displaced += total * np.float32(0.25)
    return displaced
