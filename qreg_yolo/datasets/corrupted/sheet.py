"""A contact sheet: all corruptions of one image at all severities."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from qreg_yolo.corrupt.apply import corrupt
from qreg_yolo.datasets.corrupted.request import Request
from qreg_yolo.datasets.image_io import decode
from qreg_yolo.datasets.sources import ImageSource, check_channels, select_images
from qreg_yolo.errors import DataError
from qreg_yolo.io import files

SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
_TILE = 160
"""Width of a tile in px; larger images are shrunk after they were corrupted."""
_GAP, _LABEL = 4, 150


def write_sheet(source: ImageSource, request: Request) -> str:
    """Draws ``request.out``, a row per corruption and a column per severity, and returns a summary.

    The image is the one of ``limit=1``; column 0 shows it unchanged.

    Raises:
        DataError: A suffix other than .png or .jpg, or a place that cannot be written.
    """
    kind = SUFFIXES.get(request.out.suffix.lower())
    if kind is None:
        raise DataError(f"'{request.out}' is not the name of an image. Give one that ends in .png or .jpg.")
    check_channels(source.path, source.channels)
    chosen = select_images(source.images, 1)[0]
    clean = decode(chosen.path, source.channels)
    height = max(1, round(clean.shape[0] * min(1.0, _TILE / clean.shape[1])))
    size = (min(_TILE, clean.shape[1]), height)
    sheet = Pillow.new(
        "RGB",
        (_LABEL + (len(request.severities) + 1) * (size[0] + _GAP), 24 + len(request.corruptions) * (size[1] + _GAP)),
        "white",
    )
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for column, title in enumerate(["clean", *(f"severity {severity}" for severity in request.severities)]):
        pen.text((_LABEL + column * (size[0] + _GAP), 4), title, "black", font)
    for row, name in enumerate(request.corruptions):
        top = 24 + row * (size[1] + _GAP)
        pen.text((4, top + size[1] // 2 - 8), name.replace("_", " "), "black", font)
        for column, severity in enumerate([0, *request.severities]):
            options = {"seed": request.seed, "key": chosen.key, "preset": request.preset}
            shown = corrupt(clean, name, severity, frost=request.frost_dir, **options) if severity else clean  # type: ignore[arg-type]
            tile = Pillow.fromarray(shown)
            sheet.paste(tile if tile.size == size else tile.resize(size), (_LABEL + column * (size[0] + _GAP), top))
    _save(sheet, request.out, kind)
    return f"{chosen.place} under {len(request.corruptions)} corruptions: '{request.out}'."


def _save(sheet: Pillow.Image, out: Path, kind: str) -> None:
    data = io.BytesIO()
    sheet.save(data, kind, **({"quality": 90} if kind == "JPEG" else {"optimize": True}))
    try:
        files.write_bytes(out, data.getvalue())
    except OSError as error:
        raise DataError(
            f"'{out}' cannot be written: {error.strerror or error}. Give a place in a folder of yours."
        ) from error
