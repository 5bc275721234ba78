"""The five blurs (Hendrycks & Dietterich 2019, arXiv 1903.12261): `(h, w, 3)` uint8 RGB in and out, floored."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from qreg_yolo.corrupt.draws import Draws, FloatImage, Image, to_uint8
from qreg_yolo.corrupt.spec import Defocus, Glass, Motion

Index: TypeAlias = npt.NDArray[np.intp]


def smooth(values: FloatImage, sigma: float | tuple[float, float], *, truncate: float, border: int) -> FloatImage:
    """Returns a Gaussian filter's result, float32, its kernel cut at ``int(truncate * sigma + 0.5)`` px.

    Args:
        values: `(h, w)` or `(h, w, c)` float32.
        sigma: Standard deviation in px, or one per axis (y, x).
        truncate: In standard deviations: 4 as scikit-image's default, 3 where the original says so.
        border: OpenCV's border type: REPLICATE is SciPy's `nearest`, REFLECT is SciPy's `reflect`.
    """
    sigma_y, sigma_x = sigma if isinstance(sigma, tuple) else (sigma, sigma)
    width, height = (2 * int(truncate * s + 0.5) + 1 for s in (sigma_x, sigma_y))
    if width == height == 1:
        return values.copy()
    blurred = cv2.GaussianBlur(
        values, (width, height), sigmaX=max(sigma_x, 1e-6), sigmaY=max(sigma_y, 1e-6), borderType=border
    )
    return np.asarray(blurred, np.float32)


def gaussian_blur(image: Image, sigma: float, rng: Draws) -> Image:
    """Returns the image smoothed by a Gaussian of ``sigma`` px (edge repeated, kernel cut at 4 sigma).

    Flat areas keep their level, as in the originals' float64; without the 1/1000 level, float32 would often floor them.
    """
    blurred = smooth(image.astype(np.float32), sigma, truncate=4.0, border=cv2.BORDER_REPLICATE)
    blurred += np.float32(1e-3)
    return to_uint8(blurred)


def defocus_blur(image: Image, c: Defocus, rng: Draws) -> Image:
    """Returns the image under a disk of ``c.radius`` px whose edge is softened by a Gaussian of ``c.alias_sigma``.

    The originals' kernel is float32, so its sum misses 1 by some 1e-8 either way, which decides whether flat areas keep
    their level or are floored one below. The sign of that is kept by a shift of 1/1000 level.
    """
    kernel = disk(c)
    shift = math.copysign(1e-3, float(kernel.sum(dtype=np.float64)) - 1.0)
    # OpenCV filters float32 twice as fast as uint8 to float32.
    return to_uint8(np.asarray(cv2.filter2D(image.astype(np.float32), -1, kernel, delta=shift), np.float32))


@lru_cache(maxsize=32)
def disk(c: Defocus) -> FloatImage:
    """Returns the disk kernel, odd and square, sum 1, without rows and columns of zeros around it.

    Up to radius 8 the original softens with 3 x 3 taps inside 17 x 17; beyond it with 5 x 5 inside the disk's own box.
    """
    reach, taps = (8, 3) if c.radius <= 8 else (int(c.radius), 5)
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    inside = (x * x + y * y <= c.radius**2).astype(np.float32)
    kernel = np.asarray(cv2.GaussianBlur(inside / inside.sum(), (taps, taps), sigmaX=c.alias_sigma), np.float32)
    zeros = 0
    while zeros < reach and not kernel[zeros].any():
        zeros += 1
    return np.ascontiguousarray(kernel[zeros : 2 * reach + 1 - zeros, zeros : 2 * reach + 1 - zeros])


def glass_blur(image: Image, c: Glass, rng: Draws) -> Image:
    """Returns the image smoothed, its pixels displaced at random within ``c.max_delta`` px, smoothed again.

    Traps that are kept: the original's swap assigns views of one array, which copies the source over the target
    and leaves the source as it is (pixels vanish); and offsets exclude ``+max_delta``, so content drifts down-right.
    """
    once = gaussian_blur(image, c.sigma, rng)
    packed = np.ascontiguousarray(cv2.cvtColor(once, cv2.COLOR_RGB2RGBA)).view(np.uint32).reshape(-1)
    height, width = image.shape[:2]
    for _ in range(c.passes):
        packed = packed.take(copy_sources(glass_sources(height, width, c.max_delta, rng)))
    moved = cv2.cvtColor(packed.view(np.uint8).reshape(height, width, 4), cv2.COLOR_RGBA2RGB)
    return gaussian_blur(np.asarray(moved, np.uint8), c.sigma, rng)


def glass_sources(height: int, width: int, max_delta: int, rng: Draws) -> Index:
    """Returns the source pixel of each pixel in one pass, as flat indices `(h * w,)`; at the border: itself.

    Rows and columns ``max_delta + 1 .. size - max_delta`` take part (the originals' loop bounds), with offsets
    uniform in ``[-max_delta, max_delta)`` on each axis, both from one 16-bit draw.
    """
    sources = np.arange(height * width, dtype=np.intp)
    inner = sources.reshape(height, width)[
        max_delta + 1 : height - max_delta + 1, max_delta + 1 : width - max_delta + 1
    ]
    inner += _glass_offsets(width, max_delta).take(rng.u16(inner.shape))
    return sources


@lru_cache(maxsize=32)
def _glass_offsets(width: int, max_delta: int) -> Index:
    """Returns the flat offset of each 16-bit draw."""
    side = 2 * max_delta
    cell = np.arange(1 << 16, dtype=np.intp) * side**2 >> 16
    return (cell // side - max_delta) * width + cell % side - max_delta


def copy_sources(sources: Index) -> Index:
    """Returns the origin of each pixel's value after copies one by one from the last pixel to the first.

    Pixel p copies q = sources[p]. If q > p, q has been overwritten already and passes on what it got; otherwise q
    still has its own value. All such chains are followed at once, a step at a time, until the last has ended.
    """
    ends = sources.copy()
    chains = np.flatnonzero(sources > np.arange(len(sources)))
    at = sources.take(chains)
    while chains.size:
        onward = sources.take(at)
        ends[chains] = onward
        open_ended = onward > at
        chains, at = chains[open_ended], onward[open_ended]
    return ends


def motion_blur(image: Image, c: Motion, rng: Draws) -> Image:
    """Returns the image blurred along a direction drawn from -45..45 degrees.

    The kernel is one-sided (as ImageMagick's): content moves by 2 to 11 px on average while boxes stay. Kept.
    """
    return to_uint8(blur_along(image.astype(np.float32), c.radius, c.sigma, rng.angle(-45.0, 45.0)))


def blur_along(values: FloatImage, radius: int, sigma: float, angle: float) -> FloatImage:
    """Returns the one-sided Gaussian blur of `(h, w)` or `(h, w, c)` along ``angle`` degrees, edges repeated.

    Where the kernel is longer than the image, the rest of it is dropped without renormalising, which darkens (as
    imagecorruptions does; it happens below 41 px).
    """
    height, width = values.shape[:2]
    taps = _motion_taps(radius, sigma, angle, height, width)
    rows, columns = [t[0] for t in taps], [t[1] for t in taps]
    top, left = max(0, -min(rows)), max(0, -min(columns))
    bottom, right = max(0, *rows), max(0, *columns)
    padded = cv2.copyMakeBorder(values, top, bottom, left, right, cv2.BORDER_REPLICATE)
    total = np.zeros_like(values)
    for row, column, weight in taps:
        view = padded[top + row : top + row + height, left + column : left + column + width]
        cv2.scaleAdd(view, weight, total, dst=total)
    return total


def _motion_taps(radius: int, sigma: float, angle: float, height: int, width: int) -> list[tuple[int, int, float]]:
    """Returns (row offset, column offset, weight) of each tap, those that fall on the same pixel added up."""
    length = 2 * radius + 1
    weights = [math.exp(-(i * i) / (2.0 * sigma**2)) for i in range(length)]
    total = math.fsum(weights)
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    taps: dict[tuple[int, int], float] = {}
    for i, weight in enumerate(weights):
        at = (math.ceil(i * sine - 0.5), math.ceil(i * cosine - 0.5))
        if abs(at[0]) >= height or abs(at[1]) >= width:
            break
        taps[at] = taps.get(at, 0.0) + weight / total
    return [(row, column, weight) for (row, column), weight in taps.items()]


def zoom_blur(image: Image, factors: tuple[float, ...], rng: Draws) -> Image:
    """Returns the mean of the image and its centre zoomed by each factor.

    Factor 1.0 is among them, so the image itself counts twice (as in the original).

    Deviates: OpenCV's resize puts samples some hundredths of a px from where SciPy's zoom has them.
    """
    height, width = image.shape[:2]
    plain = image.astype(np.float32)
    plain /= 255.0  # and sums in this order: so flat areas round, and are floored, as in the original
    total = plain.copy()
    axes = [(zoom_axis(height, factor), zoom_axis(width, factor)) for factor in factors[1:]]
    longest = [max((pair[i].length for pair in axes), default=0) for i in (0, 1)]
    scratch = np.empty((*longest, 3), np.float32)  # one for all: fresh memory costs more than the arithmetic
    for y, x in axes:
        zoomed = cv2.resize(
            plain[y.source, x.source], None, dst=scratch[: y.length, : x.length], fx=x.scale, fy=y.scale
        )
        zoomed = zoomed[y.first : y.first + height, x.first : x.first + width]
        if y.last_lost:
            zoomed[-1] = 0.0
        if x.last_lost:
            zoomed[:, -1] = 0.0
        cv2.accumulate(zoomed, total)
    total += plain
    total /= len(factors) + 1
    total *= 255.0
    return to_uint8(total)


class ZoomAxis(NamedTuple):
    """The zoom of one axis by `cv2.resize` with SciPy's geometry, which maps end samples to end samples.

    `source` is scaled by `scale` to `length` px, which are read from `first` on. `last_lost`: SciPy's rounding puts the
    last sample beyond the source, where it reads 0 (an accident of the originals that is kept).
    """

    source: slice
    scale: float
    length: int
    first: int
    last_lost: bool


@lru_cache(maxsize=4096)
def zoom_axis(size: int, factor: float) -> ZoomAxis:
    """Returns the geometry for an axis of ``size`` px.

    Resize puts sample i at ``(i + 1/2) / scale - 1/2`` of its source. With k px more in front, read from ``first`` on,
    the scale that puts the middle where it belongs leaves an error at the ends, and the best (k, first) almost none.
    """
    window = zoom_window(size, factor)
    part = window.stop - window.start
    grown = round(part * factor)
    step = (part - 1) / (grown - 1)
    best = (math.inf, 0, 0, 1.0)
    for ahead in range(window.start + 1):
        exact = (ahead + 0.5) / step - 0.5
        for first in (math.floor(exact), math.ceil(exact)):
            scale = (first + size / 2) / (ahead + 0.5 + (size - 1) * step / 2)
            best = min(best, (abs((first + 0.5) / scale - 0.5 - ahead), ahead, first, scale))
    _, ahead, first, scale = best
    source = slice(window.start - ahead, min(window.stop + 1, size))
    length = round((source.stop - source.start) * scale)
    return ZoomAxis(source, scale, length, first, grown == size and (grown - 1) * step > part - 1)


def zoom_window(size: int, factor: float) -> slice:
    """Returns the centre part of an axis, ``ceil(size / factor)`` long, that is zoomed to fill it."""
    part = math.ceil(size / factor)
    start = (size - part) // 2
    return slice(start, start + part)
