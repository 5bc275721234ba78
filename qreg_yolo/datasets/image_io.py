"""Images as the host decodes them, and as files of a written set."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np
from PIL import Image as Pillow
from PIL import ImageOps

from qreg_yolo.corrupt.draws import Image
from qreg_yolo.errors import UserError

FORMATS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "png": (),
        "webp": (cv2.IMWRITE_WEBP_QUALITY, 101),  # above 100 is lossless
        "jpg": (cv2.IMWRITE_JPEG_QUALITY,),
    }
)
"""Format of written images -> OpenCV's parameters; the JPEG's quality is added."""
_PILLOW_ONLY = (".avif", ".heic", ".heif")


class PictureError(UserError, ValueError):
    """A file that is no image, or none that can be corrupted."""


def decode(path: Path, channels: int = 3) -> Image:
    """Returns an image as the host decodes it: turned upright as its metadata says, at its own size.

    Args:
        path: The file.
        channels: 3: `(h, w, 3)` RGB, from grey images too; 1: `(h, w)` grey.

    Raises:
        PictureError: No image, or a damaged one.
        OSError: The file cannot be read.
    """
    data = np.frombuffer(path.read_bytes(), np.uint8)
    if not data.size:
        raise PictureError("the file is empty")
    found = None
    try:
        if channels == 3 and path.suffix.lower() in (".tif", ".tiff"):
            found = _colour_tiff(data)
        if found is None and path.suffix.lower() in _PILLOW_ONLY:
            with ImageOps.exif_transpose(Pillow.open(path)) as picture:
                return np.array(picture.convert("RGB" if channels == 3 else "L"))
        if found is None:
            found = cv2.imdecode(data, cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE)
    except Exception as error:  # whatever a decoder raises on bytes that are no image
        raise PictureError(f"it cannot be decoded ({error})") from error
    if found is None:
        raise PictureError("it cannot be decoded")
    if found.dtype == np.uint16:
        found = np.right_shift(found, 8).astype(np.uint8)
    if found.dtype != np.uint8:
        raise PictureError(f"it holds {found.dtype}, not 8 or 16 bits")
    return np.ascontiguousarray(found[..., ::-1] if channels == 3 else found)


def _colour_tiff(data: Image) -> np.ndarray | None:
    """Returns the first page's first three channels, BGR; None where it is grey: OpenCV's usual decoder takes it."""
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
        raise PictureError(f"OpenCV cannot write it as {kind}")
    return data.tobytes()


def is_whole(path: Path) -> bool:
    """Returns whether a file is something else than a JPEG, or a JPEG that ends with its end marker.

    One without may be cut short, or have bytes behind the marker, as phones write them: then its pixels are all there.
    """
    with path.open("rb") as file:
        if file.read(2) != b"\xff\xd8":
            return True
        file.seek(-2, os.SEEK_END)
        return file.read() == b"\xff\xd9"


def look(path: Path, min_side: int) -> tuple[str | None, int]:
    """Returns what is wrong with an image file (None: nothing) and its number of pixels.

    Pixels are decoded only where a JPEG lacks its end marker.

    Args:
        path: The file.
        min_side: Pixels that it needs each way.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata is no fault
            with Pillow.open(path) as image:
                image.verify()
                width, height = image.size
            if not is_whole(path):
                with Pillow.open(path) as image:
                    image.load()
    except Exception as error:  # whatever a decoder raises on bytes that are no image
        return str(error), 0
    if min(width, height) < min_side:
        return f"{width} x {height} pixels, less than {min_side}", width * height
    return None, width * height
