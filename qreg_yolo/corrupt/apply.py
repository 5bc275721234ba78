"""The 19 by name, and the one call that applies one of them to one image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any

import numpy as np

from qreg_yolo.corrupt import blur, digital, noise, weather
from qreg_yolo.corrupt.draws import Draws, Image, draws_for
from qreg_yolo.corrupt.frost import FrostOverlays, load_overlays
from qreg_yolo.corrupt.presets import constants
from qreg_yolo.errors import InvalidTypeError, InvalidValueError

MIN_SIDE = 32
"""Px; below it kernels and crops of the definitions do not fit."""

CORRUPTIONS: Mapping[str, Callable[[Image, Any, Draws], Image]] = MappingProxyType(
    {
        "gaussian_noise": noise.gaussian_noise,
        "shot_noise": noise.shot_noise,
        "impulse_noise": noise.impulse_noise,
        "defocus_blur": blur.defocus_blur,
        "glass_blur": blur.glass_blur,
        "motion_blur": blur.motion_blur,
        "zoom_blur": blur.zoom_blur,
        "snow": weather.snow,
        "frost": weather.frost,
        "fog": weather.fog,
        "brightness": digital.brightness,
        "contrast": digital.contrast,
        "elastic_transform": digital.elastic_transform,
        "pixelate": digital.pixelate,
        "jpeg_compression": digital.jpeg_compression,
        "speckle_noise": noise.speckle_noise,
        "gaussian_blur": blur.gaussian_blur,
        "spatter": weather.spatter,
        "saturate": digital.saturate,
    }
)
"""Name -> function of (image, constants of one severity, draws), in canonical order."""


def image_key(path: PurePath, image_folder: PurePath) -> str:
    """Returns the key that seeds an image's draws: its path relative to its split's image folder, with ``/``.

    >>> image_key(PurePath("VOC/images/test2007/a/000001.jpg"), PurePath("VOC/images/test2007"))
    'a/000001.jpg'

    Raises:
        ValueError: The image does not lie under the folder.
    """
    return path.relative_to(image_folder).as_posix()


def corrupt(
    image: Image,
    name: str,
    severity: int,
    *,
    seed: int = 0,
    key: str = "",
    preset: str = "imagenet224",
    frost: FrostOverlays | Path | None = None,
) -> Image:
    """Returns a corrupted copy of an image; the same arguments give the same result in any process and order.

    Args:
        image: `(h, w, 3)` uint8 RGB, or `(h, w)` grey; 32 px or more each way, any memory layout.
        name: One of `NAMES`.
        severity: 1 (mildest) to 5.
        seed: Of the experiment; together with key, name and severity it decides every draw.
        key: Which image this is (`image_key`): two images under one key get the same noise.
        preset: Whose constants: imagenet224 for any size, cifar32, tiny64, inception299.
        frost: Overlays, or a folder of them; None: `load_overlays`.

    Returns:
        The shape of ``image``, uint8, contiguous. A grey image is corrupted as RGB, and its green channel returned.

    Raises:
        ValueError: Unknown name, severity or preset; an image of another shape or below 32 px; a negative seed.
        TypeError: An image that is not a uint8 array.
    """
    values = constants(name, severity, preset)
    if name == "frost" and frost is not None:
        overlays = frost if isinstance(frost, FrostOverlays) else load_overlays(frost)
        values = values._replace(overlays=overlays)
    result = CORRUPTIONS[name](_as_rgb(image), values, draws_for(seed, key, name, severity))
    return result if image.ndim == 3 else np.ascontiguousarray(result[..., 1])


def _as_rgb(image: Image) -> Image:
    """Returns a contiguous `(h, w, 3)` image; raises if it cannot be one."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        kind = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise InvalidTypeError(f"The image is {kind}: give a NumPy array of uint8, 0..255.")
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise InvalidValueError(f"The image has shape {image.shape}: give (h, w, 3) RGB or (h, w) grey.")
    if min(image.shape[:2]) < MIN_SIDE:
        raise InvalidValueError(
            f"The image is {image.shape[1]} x {image.shape[0]} px (w x h): corruptions need {MIN_SIDE} px or more "
            "each way; enlarge it or leave it out."
        )
    return np.ascontiguousarray(image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2))
