"""The four noises (Hendrycks & Dietterich 2019, arXiv 1903.12261): `(h, w, 3)` uint8 RGB in and out, floored."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from qreg_yolo.corrupt.draws import Draws, Image, to_uint8

_LEVELS = 1 << 16


def gaussian_noise(image: Image, sigma: float, rng: Draws) -> Image:
    """Returns ``x + N(0, sigma)`` per channel value, sigma as a share of the full range.

    Levels are integers, so flooring the sum is adding the floored noise: an integer path.
    """
    noise = rng.normal_levels(sigma, image.shape)
    return np.asarray(cv2.add(image, noise, dtype=cv2.CV_8U), np.uint8)


def shot_noise(image: Image, photons: float, rng: Draws) -> Image:
    """Returns ``Poisson(x c) / c`` per channel value, c photons at full range: the inverse distribution as a table."""
    index = image.astype(np.uint32)
    index <<= 16
    index |= rng.u16(image.shape)
    return _shot_table(float(photons)).take(index)


def impulse_noise(image: Image, amount: float, rng: Draws) -> Image:
    """Returns the image with a share ``amount`` of its values replaced, half by 0 and half by 255.

    Each channel value is drawn on its own, not each pixel: single specks are coloured (as in the original).
    """
    threshold = round(amount / 2 * _LEVELS)
    draw = rng.u16(image.shape)
    zeroed = (draw < threshold).view(np.uint8)
    replaced = (draw < 2 * threshold).view(np.uint8)
    # 0 - 1 wraps to 255 (all bits) in uint8: set the replaced to 255, then clear those that are to be 0.
    return (image | (0 - replaced)) & (zeroed - 1)


def speckle_noise(image: Image, sigma: float, rng: Draws) -> Image:
    """Returns ``x + x N(0, sigma)`` per channel value."""
    factor = rng.normal(1.0, sigma, image.shape)
    factor *= image
    return to_uint8(factor)


@lru_cache(maxsize=5)
def _shot_table(photons: float) -> Image:
    """Returns, for each level 0..255 and each of 65,536 quantiles, the noisy level: `(2^24,)`, 16 MiB."""
    table = np.empty((256, _LEVELS), np.uint8)
    for level in range(256):
        rate = level / 255.0 * photons
        counts = np.arange(int(rate + 8 * rate**0.5 + 16))  # beyond it less than one of 65,536 quantiles is left
        steps = np.concatenate([[-rate], np.log(rate) - np.log(counts[1:])]) if rate else None
        share = np.exp(np.cumsum(steps)) if steps is not None else np.eye(1, len(counts))[0]
        ends = np.rint(np.cumsum(share) * _LEVELS).astype(np.int64).clip(0, _LEVELS)
        ends[-1] = _LEVELS
        noisy = np.minimum(counts / photons, 1.0) * 255.0
        table[level] = np.repeat(noisy.astype(np.uint8), np.diff(ends, prepend=0))
    return table.reshape(-1)
