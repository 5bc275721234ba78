"""Snow, frost, fog and spatter (Hendrycks & Dietterich 2019, arXiv 1903.12261): `(h, w, 3)` uint8 RGB, floored."""

from __future__ import annotations

import cv2
import numpy as np

from qreg_yolo.corrupt.blur import blur_along, smooth, zoom_window
from qreg_yolo.corrupt.draws import Draws, FloatImage, Image, to_uint8
from qreg_yolo.corrupt.frost import load_overlays, plasma
from qreg_yolo.corrupt.spec import Fog, Frost, Snow, Spatter

_WATER = (175.0, 238.0, 238.0)
_MUD = (63.0, 42.0, 20.0)
_DROP_EMBOSS = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], np.float32)


def snow(image: Image, c: Snow, rng: Draws) -> Image:
    """Returns the image greyed and brightened, with blurred flakes falling both ways along one direction.

    Severity 3 has fewer flakes than 2 (as in the original). The direction is drawn from -135..-45 degrees.

    Deviates: the zoomed flakes, a few px larger than the image, are cut at the top left after their blur, as in
    imagecorruptions; the original trims both sides before.
    """
    height, width = image.shape[:2]
    window = (zoom_window(height, c.zoom), zoom_window(width, c.zoom))
    flakes = _stretch(rng.normal(c.loc, c.scale, (height, width), window), c.zoom)
    flakes[flakes < c.threshold] = 0.0
    np.clip(flakes, 0.0, 1.0, out=flakes)
    flakes = blur_along(flakes, c.radius, c.sigma, rng.angle(-135.0, -45.0))
    flakes *= 255.0
    flakes = np.rint(flakes)[:height, :width]
    fallen = flakes + flakes[::-1, ::-1]
    plain = image.astype(np.float32)
    grey = cv2.cvtColor(plain, cv2.COLOR_RGB2GRAY)
    spare = cv2.merge([1.5 * grey + 127.5] * 3)  # two buffers for all: fresh memory costs more than the arithmetic
    cv2.max(plain, spare, dst=spare)
    cv2.addWeighted(plain, c.mix, spare, 1.0 - c.mix, 0.0, dst=plain)
    cv2.add(plain, cv2.merge([fallen] * 3, dst=spare), dst=plain)
    return to_uint8(plain)


def _stretch(part: FloatImage, zoom: float) -> FloatImage:
    """Returns ``part`` enlarged linearly, corner on corner.

    As SciPy's zoom of order 1, down to its accident: where rounding puts the last row or column behind the last
    sample it is 0.
    """
    if zoom == 1:
        return part
    for axis, length in enumerate(part.shape):
        size = round(length * zoom)
        at = np.arange(size) * ((length - 1) / (size - 1))
        low = np.minimum(at.astype(np.intp), length - 2)
        share = (at - low).astype(np.float32)
        share = share[:, None] if axis == 0 else share[None, :]
        below = part.take(low, axis)
        part = below + share * (part.take(low + 1, axis) - below)
        if at[-1] > length - 1:
            part[(slice(None),) * axis + (-1,)] = 0.0
    return part


def frost(image: Image, c: Frost, rng: Draws) -> Image:
    """Returns ``image_weight * image + frost_weight * overlay``, a random part of one of the overlays.

    Without overlays in the constants, those of `load_overlays` are used.
    """
    overlays = load_overlays() if c.overlays is None else c.overlays
    height, width = image.shape[:2]
    overlay = overlays.fitted(rng.below(len(overlays.images)), height, width, c.overlay_scale)
    top, left = rng.below(overlay.shape[0] - height), rng.below(overlay.shape[1] - width)
    part = overlay[top : top + height, left : left + width]
    # OpenCV rounds. Weights are multiples of 0.05, so are the sums: just under a half less makes rounding a floor.
    return np.asarray(cv2.addWeighted(image, c.image_weight, part, c.frost_weight, -0.499), np.uint8)


def fog(image: Image, c: Fog, rng: Draws) -> Image:
    """Returns ``(x + amount * plasma) * max(x) / (max(x) + amount)``: the brightest level of the image stays in range.

    The plasma is normalised over its whole map, of which the image takes the top-left part, so its mean varies from
    draw to draw. An all-black image gets no fog (as in the original). The map's side is that of the constants, or of
    the image where that is larger, as the next power of two (imagecorruptions).
    """
    height, width = image.shape[:2]
    side = max(c.map_size or 0, 1 << (max(height, width) - 1).bit_length())
    haze = plasma(side, c.decay, rng)[:height, :width] * np.float32(255.0 * c.amount)
    brightest = int(image.max()) / 255.0
    hazy = image + haze[..., None]
    hazy *= np.float32(brightest / (brightest + c.amount))
    return to_uint8(hazy)


def spatter(image: Image, c: Spatter, rng: Draws) -> Image:
    """Returns the image with drops of water (severities 1 to 3) or mud (4 and 5) where smoothed noise is high.

    Water is added in the image's channel order as (175, 238, 238), mud replaces by (63, 42, 20).

    Deviates: noise above 1 is cut (uint8 would wrap it); an image without any drop stays as it is (the originals
    divide 0 by 0 there, which can happen at 32 px).
    """
    noise = rng.normal(c.loc, c.scale, image.shape[:2])
    liquid = smooth(noise, c.sigma, truncate=4.0, border=cv2.BORDER_REPLICATE)
    plain = image.astype(np.float32)
    if c.mud:
        mask = smooth((liquid > c.threshold).astype(np.float32), c.strength, truncate=4.0, border=cv2.BORDER_REPLICATE)
        mask[mask < 0.8] = 0.0
        plain *= (1.0 - mask)[..., None]
        return to_uint8(plain + cv2.merge([mask * colour for colour in _MUD]))
    liquid[liquid < c.threshold] = 0.0
    drops = _drops(to_uint8(liquid * 255.0))
    highest = float(drops.max())
    if highest > 0.0:
        drops *= np.float32(c.strength / highest)
        plain += cv2.merge([drops * colour for colour in _WATER])
    return to_uint8(plain)


def _drops(liquid: Image) -> FloatImage:
    """Returns the relief of the drops, `(h, w)` float32: liquid times an embossed distance to the drops' edges."""
    outside = 255 - cv2.Canny(liquid, 50, 150)
    distance = np.minimum(cv2.distanceTransform(outside, cv2.DIST_L2, 5), 20.0)
    levels = cv2.equalizeHist(cv2.blur(distance, (3, 3)).astype(np.uint8))
    relief = cv2.blur(cv2.filter2D(levels, cv2.CV_8U, _DROP_EMBOSS), (3, 3))
    return np.multiply(liquid, relief, dtype=np.float32)
