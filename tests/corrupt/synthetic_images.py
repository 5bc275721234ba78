"""Three small images made by arithmetic alone: the same bytes under every version of everything."""

from __future__ import annotations

import numpy as np


def _hash(y, x, salt):
    """Returns 0..255 that look random, from integer arithmetic."""
    mixed = (y * 73856093) ^ (x * 19349663) ^ (salt * 83492791)
    return ((mixed ^ (mixed >> 13)) * 1274126177 >> 9) & 255


def gradient(height=96, width=128):
    """Smooth ramps in different directions, one per channel."""
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * x // (width - 1), 255 * y // (height - 1), 128 + 64 * (x - y) // width], -1).astype(np.uint8)


def blocks(height=88, width=120):
    """Flat saturated patches with sharp edges, black, white and grey among them."""
    y, x = np.mgrid[:height, :width]
    cell = (y // 11) * 13 + x // 15
    pixels = np.stack([_hash(cell, cell, c) for c in range(3)], -1)
    pixels[cell % 5 == 0] = 0
    pixels[cell % 7 == 0] = 255
    pixels[cell % 9 == 0] = 120
    return pixels.astype(np.uint8)


def texture(height=112, width=104):
    """Grain on a ramp: detail at every pixel, no saturated values."""
    y, x = np.mgrid[:height, :width]
    ramp = 60 + 80 * (x + y) // (width + height)
    return np.stack([ramp + _hash(y, x, c) // (3 + c) for c in range(3)], -1).astype(np.uint8)


IMAGES = {"gradient": gradient, "blocks": blocks, "texture": texture}
