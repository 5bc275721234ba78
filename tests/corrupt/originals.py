"""The corruptions once more, plainly and in float64, for the presets that no peer implements.

Written from the definitions: SciPy where the package uses OpenCV, colour spaces from Matplotlib, JPEG from OpenCV where
it uses Pillow, loops where it uses tricks. `x` is `(h, w, 3)` in 0..1, `c` what the published table lists for one
severity. Random numbers come from NumPy's global generator, in the order in which `PeerDraws` hands them over.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from scipy import ndimage

from qreg_yolo.corrupt.blur import glass_sources

WATER, MUD = np.array([175, 238, 238]) / 255, np.array([63, 42, 20]) / 255
random = np.random  # the legacy global generator is what the peer draws from


def levels(values):
    """Returns 0..1 as uint8, floored; what float64 leaves below a whole number counts as that number."""
    return np.floor(np.clip(values, 0, 1) * 255 + 1e-9).astype(np.uint8)


def _gauss(values, sigma, mode="nearest", truncate=4.0):
    return ndimage.gaussian_filter(values, (sigma, sigma, 0)[: values.ndim], mode=mode, truncate=truncate)


def gaussian_noise(x, c):
    return levels(x + random.normal(size=x.shape, scale=c))


def speckle_noise(x, c):
    return levels(x + x * random.normal(size=x.shape, scale=c))


def gaussian_blur(x, c):
    return levels(_gauss(x, c))


def defocus_blur(x, c):
    radius, sigma = c
    reach, taps = (8, 1) if radius <= 8 else (radius, 2)
    y, z = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = (y**2 + z**2 <= radius**2) / np.sum(y**2 + z**2 <= radius**2)
    edge = np.exp(-(np.arange(-taps, taps + 1) ** 2) / (2 * sigma**2))
    for axis in (0, 1):
        disk = ndimage.correlate1d(disk, edge / edge.sum(), axis=axis, mode="mirror")
    return levels(np.stack([ndimage.correlate(x[..., i], disk, mode="mirror") for i in range(3)], -1))


def glass_blur(x, c, rng):
    """Copies pixel by pixel from the last to the first; the offsets are those that the package draws from ``rng``."""
    sigma, delta, passes = c
    height, width = x.shape[:2]
    moved = levels(_gauss(x, sigma))
    for _ in range(passes):
        sources = glass_sources(height, width, delta, rng)
        for row in range(height - delta, delta, -1):
            for column in range(width - delta, delta, -1):
                moved[row, column] = moved[divmod(int(sources[row * width + column]), width)]
    return levels(_gauss(moved / 255, sigma))


def _along(values, radius, sigma, angle):
    height, width = values.shape[:2]
    weights = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
    total = np.zeros_like(values)
    for i, weight in enumerate(weights / weights.sum()):
        down = math.ceil(i * math.sin(math.radians(angle)) - 0.5)
        right = math.ceil(i * math.cos(math.radians(angle)) - 0.5)
        if abs(down) >= height or abs(right) >= width:
            break
        rows, columns = np.arange(height) + down, np.arange(width) + right
        total += weight * values[np.ix_(rows.clip(0, height - 1), columns.clip(0, width - 1))]
    return total


def motion_blur(x, c):
    return levels(_along(x, *c, random.uniform(-45, 45)))


def _zoomed(values, factor):
    parts = [math.ceil(size / factor) for size in values.shape[:2]]
    top, left = ((size - part) // 2 for size, part in zip(values.shape[:2], parts, strict=True))
    centre = values[top : top + parts[0], left : left + parts[1]]
    return ndimage.zoom(centre, (factor, factor, 1)[: values.ndim], order=1)


def zoom_blur(x, c):
    height, width = x.shape[:2]
    return levels((x + sum(_zoomed(x, factor)[:height, :width] for factor in c)) / (len(c) + 1))


def snow(x, c):
    loc, scale, zoom, threshold, radius, sigma, mix = c
    height, width = x.shape[:2]
    flakes = _zoomed(random.normal(loc, scale, (height, width)), zoom)
    flakes = np.where(flakes < threshold, 0, flakes).clip(0, 1)
    flakes = _along(flakes, radius, sigma, random.uniform(-135, -45))[:height, :width, None]
    flakes = np.round(flakes * 255) / 255
    grey = (x @ [0.299, 0.587, 0.114])[..., None]
    return levels(mix * x + (1 - mix) * np.maximum(x, 1.5 * grey + 0.5) + flakes + flakes[::-1, ::-1])


def frost(x, c, overlays, scale):
    height, width = x.shape[:2]
    overlay = overlays[random.randint(len(overlays))]
    if scale is None:
        size = [math.ceil(1.1 * side) for side in overlay.shape[:2]]
        part = cv2.resize(overlay, size[::-1], interpolation=cv2.INTER_CUBIC)
    else:
        rows, columns = ((np.arange(round(side * scale)) + 0.5) / scale - 0.5 for side in overlay.shape[:2])
        grid = np.meshgrid(rows, columns, indexing="ij")
        part = np.stack([ndimage.map_coordinates(overlay[..., i].astype(float), grid, order=1) for i in range(3)], -1)
    top, left = random.randint(part.shape[0] - height), random.randint(part.shape[1] - width)
    part = np.rint(part[top : top + height, left : left + width].astype(float))
    return levels(c[0] * x + c[1] * part / 255)


def plasma(side, decay):
    field, step, wibble = np.zeros((side, side)), side, 100.0

    def mean(*neighbours):
        total = sum(field[np.ix_(rows % side, columns % side)] for rows, columns in neighbours)
        return total / 4 + wibble * random.uniform(-wibble, wibble, total.shape)

    while step >= 2:
        half, even = step // 2, np.arange(0, side, step)
        odd = even + half
        field[np.ix_(odd, odd)] = mean((odd - half, odd - half), (odd - half, odd + half), (odd + half, odd - half),
                                       (odd + half, odd + half))  # fmt: skip
        for rows, columns in ((even, odd), (odd, even)):
            field[np.ix_(rows, columns)] = mean(
                (rows - half, columns), (rows + half, columns), (rows, columns - half), (rows, columns + half)
            )
        step, wibble = half, wibble / decay
    return (field - field.min()) / (field.max() - field.min())


def fog(x, c, side):
    amount, decay = c
    hazy = x + amount * plasma(side, decay)[: x.shape[0], : x.shape[1], None]
    return levels(hazy * x.max() / (x.max() + amount))


def brightness(x, c):
    hsv = rgb_to_hsv(x)
    hsv[..., 2] = np.clip(hsv[..., 2] + c, 0, 1)
    return levels(hsv_to_rgb(hsv))


def saturate(x, c):
    hsv = rgb_to_hsv(x)
    hsv[..., 1] = np.clip(hsv[..., 1] * c[0] + c[1], 0, 1)
    return levels(hsv_to_rgb(hsv))


def contrast(x, c):
    mean = x.mean((0, 1))
    return levels((x - mean) * c + mean)


def elastic_transform(x, c):
    alpha, sigma, reach = c
    height, width = x.shape[:2]
    centre, third = np.array([width, height]) // 2, min(height, width) // 3
    anchors = centre + third * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = anchors + random.uniform(-reach, reach, (3, 2))
    forth = np.linalg.solve(np.column_stack([anchors, np.ones(3)]), moved).T
    back = np.linalg.inv(np.vstack([forth, [0, 0, 1]]))
    rows, columns = np.mgrid[:height, :width]
    at_x, at_y = (back[i, 0] * columns + back[i, 1] * rows + back[i, 2] for i in (0, 1))
    warped = [ndimage.map_coordinates(x[..., i], (at_y, at_x), order=1, mode="mirror") for i in range(3)]
    right, down = (
        alpha * _gauss(random.uniform(-1, 1, (height, width)), sigma, mode="reflect", truncate=3) for _ in range(2)
    )
    grid = (rows + down, columns + right)
    return levels(np.stack([ndimage.map_coordinates(one, grid, order=1, mode="reflect") for one in warped], -1))


def _box(values, size):
    """Returns Pillow's box resize of the first axis: the mean of the samples whose centres lie in the output's box."""
    ratio = len(values) / size
    reach, rows = max(ratio, 1) / 2, []
    for i in range(size):
        middle = (i + 0.5) * ratio
        inside = [k for k in range(len(values)) if -reach < k + 0.5 - middle <= reach]
        rows.append(np.floor(values[inside].mean(0) + 0.5))
    return np.stack(rows)


def pixelate(x, c):
    def resized(values, height, width):
        return _box(_box(values.swapaxes(0, 1), width).swapaxes(0, 1), height)

    height, width = x.shape[:2]
    return resized(resized(np.rint(x * 255), int(height * c), int(width * c)), height, width).astype(np.uint8)


def jpeg_compression(x, c):
    pixels = np.rint(x * 255).astype(np.uint8)
    encoded = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, c])[1]
    return cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1]


def spatter(x, c):
    loc, scale, sigma, threshold, strength, mud = c
    liquid = _gauss(random.normal(loc, scale, x.shape[:2]), sigma)
    if mud:
        mask = _gauss((liquid > threshold).astype(float), strength)[..., None]
        mask[mask < 0.8] = 0
        return levels(x * (1 - mask) + mask * MUD)
    wet = levels(np.where(liquid < threshold, 0, liquid))
    distance = cv2.distanceTransform(255 - cv2.Canny(wet, 50, 150), cv2.DIST_L2, 5)
    distance = cv2.equalizeHist(cv2.blur(np.minimum(distance, 20), (3, 3)).astype(np.uint8))
    relief = cv2.filter2D(distance, cv2.CV_8U, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]))
    drops = (wet * cv2.blur(relief, (3, 3)).astype(float))[..., None]
    return levels(x + strength * drops / max(drops.max(), 1) * WATER)
