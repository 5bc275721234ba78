"""Frost overlays: from a folder, from an installed distribution, or drawn. No photograph is shipped.

The photographs that the original corruption blends in came to its repository without source or licence.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import cv2
import numpy as np

from qreg_yolo.corrupt.draws import Draws, FloatImage, Image, draws_for, to_uint8
from qreg_yolo.errors import InvalidValueError, MissingFileError

_DISTRIBUTIONS = ("imagecorruptions-imaug", "imagecorruptions", "torch-uncertainty-assets")
_SUFFIXES = (".png", ".jpg", ".jpeg")
_DRAWN_FROM = 5
"""The original draws from the first five of its six files; the second and third are the same picture."""
_COVER = 1.1
"""Size of a drawn overlay relative to the image, so that crops differ."""
_SIDE = 512
_PALETTES = (
    ((78.0, 149.0, 166.0), 18.0),
    ((201.0, 205.0, 214.0), 22.0),
    ((201.0, 205.0, 214.0), 22.0),  # twice as likely as the others, like its model
    ((138.0, 153.0, 165.0), 29.0),
    ((112.0, 123.0, 135.0), 43.0),
)
"""Mean RGB and standard deviation of the five overlays that the original draws from."""


@dataclass(frozen=True, eq=False)
class FrostOverlays:
    """Pictures of frost and where they come from.

    Attributes:
        images: Each `(h, w, 3)` uint8 RGB; one is drawn per image, all equally likely.
        source: For the record: ``folder NAME``, ``DISTRIBUTION VERSION`` or ``procedural 1``.
    """

    images: tuple[Image, ...]
    source: str

    def __post_init__(self) -> None:
        if not self.images:
            raise InvalidValueError(f"No frost overlay in {self.source}: give a folder with at least one .png or .jpg.")

    @property
    def identity(self) -> str:
        """The source, and a hash of the pictures: equal where the same frost is drawn."""
        digest = hashlib.sha256(b"".join(picture.tobytes() for picture in self.images)).hexdigest()
        return f"{self.source}, sha256 {digest[:16]}"

    def fitted(self, index: int, height: int, width: int, scale: float | None) -> Image:
        """Returns one overlay, larger than ``height`` and ``width`` on both axes; the last few are kept in memory.

        Args:
            index: Which one.
            height: Of the image, px.
            width: Of the image, px.
            scale: Factor of the 32 and 64 pixel presets; None, or a result too small: what covers the image,
                at least 1, times 1.1.
        """
        rows, columns = self.images[index].shape[:2]
        if scale is not None:
            size = (round(columns * scale), round(rows * scale))
            if size[0] > width and size[1] > height:
                return _resized(self, index, size, cv2.INTER_LINEAR)
        factor = max(height / rows, width / columns, 1.0) * _COVER
        return _resized(self, index, (int(np.ceil(columns * factor)), int(np.ceil(rows * factor))), cv2.INTER_CUBIC)


@lru_cache(maxsize=24)
def _resized(overlays: FrostOverlays, index: int, size_wh: tuple[int, int], interpolation: int) -> Image:
    return np.asarray(cv2.resize(overlays.images[index], size_wh, interpolation=interpolation), np.uint8)


@lru_cache(maxsize=4)
def load_overlays(folder: Path | None = None) -> FrostOverlays:
    """Returns the overlays of a folder, else those found in an installed distribution, else drawn ones.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: It holds no picture, or one that cannot be read.
    """
    if folder is not None:
        if not folder.is_dir():
            raise MissingFileError(f"The frost folder {folder} does not exist: give a folder of .png or .jpg files.")
        pictures = sorted(p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES)
        return FrostOverlays(tuple(_read(p) for p in pictures), f"folder {folder.name}")
    return find_overlays() or procedural_overlays()


def find_overlays() -> FrostOverlays | None:
    """Returns the overlays that an installed distribution brings along (its code is not imported), or None."""
    for name in _DISTRIBUTIONS:
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue
        listed = [f for f in found.files or () if "frost" in f.name.lower() and f.suffix.lower() in _SUFFIXES]
        paths = [Path(str(f.locate())) for f in sorted(listed, key=lambda f: f.name)[:_DRAWN_FROM]]
        if paths and all(p.is_file() for p in paths):
            return FrostOverlays(tuple(_read(p) for p in paths), f"{name} {found.version}")
    return None


@lru_cache(maxsize=1)
def procedural_overlays() -> FrostOverlays:
    """Returns five drawn overlays, the same everywhere: a plasma, feathers of ice and fine grain, tinted."""
    pictures = [_draw(draws_for(0, f"overlay {i}", "frost", 0), *tint) for i, tint in enumerate(_PALETTES)]
    return FrostOverlays(tuple(pictures), "procedural 1")


def _draw(rng: Draws, mean: tuple[float, float, float], deviation: float) -> Image:
    """Returns one overlay, `(512, 512, 3)`, of the given mean colour and standard deviation."""
    ice = np.zeros((_SIDE, _SIDE), np.uint8)
    for _ in range(60):
        _feather(ice, rng)
    field = 2.0 * plasma(_SIDE, 1.7, rng) + ice.astype(np.float32) / 255.0
    field += 0.08 * rng.normal(0.0, 1.0, field.shape)
    field = (field - field.mean()) * np.float32(deviation / field.std())
    return to_uint8(cv2.merge([field + np.float32(channel) for channel in mean]))


def _feather(canvas: Image, rng: Draws) -> None:
    """Draws one crystal: a stem, and barbs at 60 degrees that shorten towards its tip."""
    start = np.array([rng.below(_SIDE), rng.below(_SIDE)], np.float64)
    heading, length = rng.angle(0.0, 2.0 * np.pi), rng.angle(60.0, 220.0)
    bright = 110 + rng.below(140)
    for along in np.arange(0.0, length, 6.0):
        root = start + along * _direction(heading)
        for side in (-1.0, 0.0, 1.0):
            reach = 7.0 if side == 0.0 else 0.35 * (length - along) * rng.angle(0.5, 1.0)
            tip = root + reach * _direction(heading + side * np.pi / 3.0)
            ends = [(round(float(x)), round(float(y))) for x, y in (root, tip)]
            cv2.line(canvas, ends[0], ends[1], (bright,), 1, cv2.LINE_AA)


def _direction(angle: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([np.cos(angle), np.sin(angle)])


def _read(path: Path) -> Image:
    """Returns a picture as RGB, independent of the file name's characters."""
    try:
        encoded = np.frombuffer(path.read_bytes(), np.uint8)
        picture = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    except cv2.error:  # an empty file
        picture = None
    if picture is None:
        raise InvalidValueError(
            f"The frost overlay {path} cannot be decoded: remove it or replace it by a .png or .jpg."
        )
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


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
