"""Image files, decoded as Ultralytics does and encoded for corrupted datasets."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np
from PIL import Image as Pillow
from PIL import ImageOps

from qreg_yolo.corrupt.draws import Image
from qreg_yolo.errors import DataError

FORMATS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "png": (),
        "webp": (cv2.IMWRITE_WEBP_QUALITY, 101),  # above 100 is lossless
        "jpg": (cv2.IMWRITE_JPEG_QUALITY,),
    }
)
"""Format of written images -> OpenCV's parameters; the JPEG's quality is added."""
_PILLOW_ONLY = (".avif", ".heic", ".heif")


def decode(path: Path, channels: int = 3) -> Image:
    """Returns an image as Ultralytics decodes it: turned upright as its metadata says, at its own size.

    Args:
        path: The file.
        channels: 3: `(h, w, 3)` RGB, from grey images too; 1: `(h, w)` grey.

    Raises:
        DataError: Not an image, or a damaged one.
        OSError: The file cannot be read.
    """
    data = np.frombuffer(path.read_bytes(), np.uint8)
    if not data.size:
        raise DataError("the file is empty")
    found = None
    try:
        if channels == 3 and path.suffix.lower() in (".tif", ".tiff"):
            found = _colour_tiff(data)
        if found is None and path.suffix.lower() in _PILLOW_ONLY:
            with ImageOps.exif_transpose(Pillow.open(path)) as picture:
                return np.array(picture.convert("RGB" if channels == 3 else "L"))
        if found is None:
            found = cv2.imdecode(data, cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE)
    except Exception as error:  # whatever a decoder raises on bytes that are not an image
        raise DataError(f"it cannot be decoded ({error})") from error
    if found is None:
        raise DataError("it cannot be decoded")
    if found.dtype == np.uint16:
        found = np.right_shift(found, 8).astype(np.uint8)
    if found.dtype != np.uint8:
        raise DataError(f"it holds {found.dtype}, not 8 or 16 bits")
    return np.ascontiguousarray(found[..., ::-1] if channels == 3 else found)


def _colour_tiff(data: Image) -> np.ndarray | None:
    """Returns the first page's first three channels, BGR; None if it is grey: OpenCV's usual decoder reads those."""
    fine, pages = cv2.imdecodemulti(data, cv2.IMREAD_UNCHANGED)
    return pages[0][..., :3] if fine and pages[0].ndim == 3 else None


def encode(image: Image, kind: str, quality: int = 95) -> bytes:
    """Returns an RGB or grey image as the bytes of a file.

    Args:
        image: `(h, w, 3)` RGB or `(h, w)` grey.
        kind: One of `FORMATS`; png and webp lose nothing.
        quality: Of jpg, 1..100.
    """
    parameters = FORMATS[kind] + ((quality,) if kind == "jpg" else ())
    fine, data = cv2.imencode(f".{kind}", image if image.ndim == 2 else image[..., ::-1], parameters)
    if not fine:
        raise DataError(f"OpenCV cannot write it as {kind}")
    return data.tobytes()


@dataclass(frozen=True)
class Look:
    """The result of a look at an image file."""

    fault: str | None
    """None: usable."""
    pixels: int = 0
    """Width times height; 0 for a file that is not an image."""
    whole: bool = True
    """Whether it is not a JPEG, or a JPEG that ends with its end marker."""


def look(path: Path, min_side: int) -> Look:
    """Returns the result of a look at an image file.

    Pixels are decoded only if a JPEG lacks its end marker: it may be cut short, or have bytes after the marker, as
    phones write them, and then its pixels are complete.

    Args:
        path: The file.
        min_side: Pixels that it needs each way.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata is not a fault
            with Pillow.open(path) as image:
                image.verify()
                width, height = image.size
            if not (whole := _is_whole(path)):
                with Pillow.open(path) as image:
                    image.load()
    except Exception as error:  # whatever a decoder raises on bytes that are not an image
        return Look(str(error))
    small = f"{width} x {height} pixels, less than {min_side}" if min(width, height) < min_side else None
    return Look(small, width * height, whole)


def _is_whole(path: Path) -> bool:
    with path.open("rb") as file:
        if file.read(2) != b"\xff\xd8":
            return True
        file.seek(-2, os.SEEK_END)
        return file.read() == b"\xff\xd9"
