"""Images decode as Ultralytics decodes them, and lossless files lose nothing."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from qreg_yolo.datasets.image_io import Look, decode, encode, look
from qreg_yolo.errors import DataError
from tests.corrupt.synthetic_images import gradient, texture


def write(folder: Path, kind: str) -> Path:
    pixels = texture(40, 50)
    path = folder / f"{kind}.{kind.rpartition(' ')[2]}"
    image = Image.fromarray(pixels)
    if kind == "turned jpg":
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(path, exif=exif)
    elif kind == "deep png" or kind == "deep tif":
        cv2.imwrite(str(path), pixels.astype(np.uint16) * 257 + 77)
    elif kind == "grey tif":
        image.convert("L").save(path)
    elif kind in ("clear png", "grey png"):
        image.convert("LA" if kind == "grey png" else "RGBA").save(path)
    else:
        image.save(path)
    return path


KINDS = [
    "plain png", "plain jpg", "plain webp", "plain bmp", "plain tif", "plain avif", "turned jpg", "deep png",
    "deep tif", "grey tif", "grey png", "clear png",
]  # fmt: skip


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.ultralytics
def test_as_the_host_decodes(kind: str, channels: int, tmp_path: Path) -> None:
    from ultralytics.utils.patches import imread

    path = write(tmp_path, kind)
    theirs = imread(path, cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE)
    ours = decode(path, channels)
    assert np.array_equal(ours, theirs[..., ::-1] if channels == 3 else theirs[..., 0])
    assert ours.flags.c_contiguous
    assert ours.shape[:2] == ((50, 40) if kind == "turned jpg" else (40, 50))


@pytest.mark.parametrize(("kind", "lossless"), [("png", True), ("webp", True), ("jpg", False)])
@pytest.mark.parametrize("grey", [False, True])
def test_what_is_written_is_read_back(kind: str, lossless: bool, grey: bool, tmp_path: Path) -> None:
    image = gradient(40, 50)[..., 0] if grey else gradient(40, 50)
    path = tmp_path / f"x.{kind}"
    path.write_bytes(encode(image, kind))
    back = decode(path, 1 if grey else 3)
    assert np.array_equal(back, image) == lossless
    assert np.abs(back.astype(int) - image).max() < 12
    assert len(encode(texture(), "jpg", 30)) < len(encode(texture(), "jpg", 90))


@pytest.mark.parametrize("data", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + b"x" * 99])
def test_what_is_no_image_is_named(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(data)
    with pytest.raises(DataError):
        decode(path)
    assert look(path, 32).fault


def test_a_look_tells_size_and_truncation(tmp_path: Path) -> None:
    path = write(tmp_path, "plain jpg")
    assert look(path, 32) == Look(None, 2000)
    assert look(path, 41).fault == "50 x 40 pixels, less than 41"
    path.write_bytes(path.read_bytes()[:-300])
    assert "truncated" in str(look(path, 32).fault)
