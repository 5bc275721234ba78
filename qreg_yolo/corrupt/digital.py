"""Brightness, contrast, saturation, elastic, pixels, JPEG (Hendrycks & Dietterich 2019, arXiv 1903.12261), floored.

`(h, w, 3)` uint8 RGB in and out.
"""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as PILImage

from qreg_yolo.corrupt.blur import smooth
from qreg_yolo.corrupt.draws import Draws, FloatImage, Image, to_uint8
from qreg_yolo.corrupt.spec import Elastic, Pixelate, Saturate


def brightness(image: Image, delta: float, rng: Draws) -> Image:
    """Returns the image with HSV's V raised by ``delta``: each channel times V'/V, from a table on (V, level)."""
    index = np.left_shift(_extreme(image, largest=True), 8, dtype=np.uint16)
    return _brightness_table(delta).take(index[..., None] | image)


def _extreme(image: Image, *, largest: bool) -> Image:
    """Returns each pixel's largest or smallest channel, `(h, w)`."""
    red, green, blue = cv2.split(image)
    pick = cv2.max if largest else cv2.min
    return np.asarray(pick(pick(red, green), blue), np.uint8)


@lru_cache(maxsize=16)
def _brightness_table(delta: float) -> Image:
    """Returns the new level for each (V, level), flat: ``level * V' / V``; black becomes grey."""
    value = np.arange(256)[:, None] / 255.0
    level = np.arange(256)[None, :] / 255.0
    raised = np.minimum(value + delta, 1.0)
    new = np.where(level < value, level * raised / np.maximum(value, 1.0 / 255.0), raised)
    table: Image = (new * 255.0).astype(np.uint8).reshape(-1)
    return table


def contrast(image: Image, share: float, rng: Draws) -> Image:
    """Returns each channel drawn to its mean: ``(x - mean) * share + mean``, a table per channel."""
    means = np.array(cv2.mean(image)[:3]) / 255.0
    levels = np.arange(256)[:, None] / 255.0
    tables = np.clip((levels - means) * share + means, 0.0, 1.0) * 255.0
    return np.asarray(cv2.LUT(image, tables.astype(np.uint8)[None]), np.uint8)


def saturate(image: Image, c: Saturate, rng: Draws) -> Image:
    """Returns the image with HSV's S as ``S' = clip(gain * S + offset)``: ``V (1 - S') + (x - min) S'/S``.

    Grey pixels have hue 0, so an offset reddens them: green and blue become ``V (1 - S')`` (as in the original).
    """
    largest, smallest = _extreme(image, largest=True), _extreme(image, largest=False)
    index = np.left_shift(largest, 8, dtype=np.uint16) | smallest
    ratio, lowest = _saturation_tables(c)
    new = image - cv2.merge([smallest.astype(np.float32)] * 3)
    new *= ratio.take(index)[..., None]
    new += lowest.take(index)[..., None]
    result = to_uint8(new)
    if c.offset:
        np.copyto(result[..., 0], largest, where=largest == smallest)
    return result


@lru_cache(maxsize=16)
def _saturation_tables(c: Saturate) -> tuple[FloatImage, FloatImage]:
    """Returns S'/S (1 where S = 0) and the new smallest channel for each (largest, smallest), flat.

    With a gain of 2 the results are integers but for rounding, and floored: the smallest channel is rounded as the
    originals round it, and the ratio is a little too large so that the largest channel, V, does not lose a level.
    """
    value = np.arange(256)[:, None] / 255.0
    spread = np.maximum(value - np.arange(256)[None, :] / 255.0, 0.0)
    old = np.divide(spread, value, out=np.zeros_like(spread), where=value > 0)
    new = np.clip(old * c.gain + c.offset, 0.0, 1.0)
    ratio = np.divide(new, old, out=np.ones_like(old), where=old > 0) * (1.0 + 1e-6)
    lowest = value * (1.0 - new) * 255.0
    rounded = lowest.astype(np.float32)
    rounded = np.where(rounded > lowest, np.nextafter(rounded, np.float32(-1.0)), rounded)
    return ratio.astype(np.float32).reshape(-1), rounded.reshape(-1)


def pixelate(image: Image, c: Pixelate, rng: Draws) -> Image:
    """Returns the image down at ``c.scale`` by box means, and up again.

    Up by nearest neighbour (imagecorruptions, preset imagenet224) or by box (the original; the other presets).
    """
    height, width = image.shape[:2]
    small = PILImage.fromarray(image).resize((int(width * c.scale), int(height * c.scale)), PILImage.Resampling.BOX)
    up = PILImage.Resampling.NEAREST if c.nearest else PILImage.Resampling.BOX
    return np.array(small.resize((width, height), up))


def jpeg_compression(image: Image, quality: int, rng: Draws) -> Image:
    """Returns the image after JPEG at ``quality`` (Pillow's scale, chroma halved both ways)."""
    buffer = BytesIO()
    PILImage.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.array(PILImage.open(buffer))


def elastic_transform(image: Image, c: Elastic, rng: Draws) -> Image:
    """Returns the image displaced by smoothed uniform noise; with ``c.affine``, after a random affine map.

    Preset imagenet224 is imagecorruptions' version without the affine map, so that boxes stay valid; its noise scales
    with the height on both axes (kept). Bilinear, edges mirrored.
    """
    height, width = image.shape[:2]
    values = image.astype(np.float32)
    if c.affine is not None:
        values = _affine(values, c.affine, rng)
    noise = c.noise * height if c.relative else c.noise
    sigma = (c.sigma[0] * height, c.sigma[1] * width) if c.relative else c.sigma
    y, x = np.ogrid[:height, :width]
    maps = []
    for start in (x, y):
        field = smooth(rng.uniform(-noise, noise, (height, width)), sigma, truncate=3.0, border=cv2.BORDER_REFLECT)
        maps.append(field * np.float32(c.alpha) + start.astype(np.float32))
    moved = cv2.remap(values, maps[0], maps[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return to_uint8(np.asarray(moved, np.float32))


def _affine(values: FloatImage, reach: float, rng: Draws) -> FloatImage:
    """Returns the image under the map that moves three points about its centre by up to ``reach`` px each."""
    height, width = values.shape[:2]
    third = min(height, width) // 3
    corners = third * np.array([[1, 1], [1, -1], [-1, -1]], np.float32)
    anchors: npt.NDArray[np.float32] = np.array([width // 2, height // 2], np.float32) + corners
    moved = anchors + rng.uniform(-reach, reach, (3, 2))
    matrix = cv2.getAffineTransform(anchors, moved)
    warped = cv2.warpAffine(values, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(warped, np.float32)
