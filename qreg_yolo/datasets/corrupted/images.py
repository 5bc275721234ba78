"""What becomes of one image: a file in each set, and a link to its labels beside it. Runs in worker processes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from qreg_yolo.corrupt.apply import corrupt
from qreg_yolo.corrupt.draws import Image
from qreg_yolo.datasets.corrupted.manifest import SCRATCH, Entry, SetsError
from qreg_yolo.datasets.corrupted.request import DEFAULT_QUALITY, Request
from qreg_yolo.datasets.image_io import PictureError, decode, encode
from qreg_yolo.datasets.sources import SourceImage
from qreg_yolo.io import files


@dataclass(frozen=True)
class Task:
    """One image."""

    image: SourceImage
    stem: str
    """What its files are called, without the suffix; may hold folders."""
    channels: int
    """What it is decoded to."""
    request: Request
    known: Entry | None
    """What an earlier run wrote for it."""


def file_name(task: Task, corruption: str, severity: int) -> str:
    """Returns the image's file in one set, relative to the folder of all."""
    return f"{corruption}/{severity}/images/{task.stem}.{task.request.format}"


def corrupt_image(task: Task) -> Entry:
    """Returns what the image became, after writing what is missing or not as recorded.

    Raises:
        SetsError: The image has changed since it was recorded.
        OSError: A set cannot be written.
    """
    out, image, known = task.request.out, task.image, task.known
    try:
        source_sha256 = hashlib.sha256(image.path.read_bytes()).hexdigest()
    except OSError as error:
        return Entry(image.place, "", fault=error.strerror or str(error))
    if known and known.source_sha256 not in ("", source_sha256):
        raise SetsError(f"'{image.path}' has changed since '{out}' was begun. Write the sets into another folder.")
    done = dict(known.files) if known else {}
    missing = [
        cell
        for cell in task.request.cells
        if (name := file_name(task, *cell)) not in done or _sha256(out / name) != done[name]
    ]
    try:
        done |= _write(task, missing)
    except (PictureError, ValueError, TypeError) as error:
        return Entry(image.place, source_sha256, fault=str(error))
    for corruption, severity in task.request.cells:
        _link_label(image.label, out / corruption / str(severity) / "labels" / f"{task.stem}.txt")
    return Entry(image.place, source_sha256, done)


def picture(task: Task, corruption: str, severity: int) -> bytes:
    """Returns the file of one cell, for the estimate of all."""
    return _picture(task, decode(task.image.path, task.channels), corruption, severity)


def _picture(task: Task, pixels: Image, corruption: str, severity: int) -> bytes:
    asked = task.request
    result = corrupt(
        pixels, corruption, severity,
        seed=asked.seed, key=task.image.key, preset=asked.preset, frost=asked.frost_dir,
    )  # fmt: skip
    return encode(result, asked.format, asked.quality or DEFAULT_QUALITY)


def _write(task: Task, cells: list[tuple[str, int]]) -> dict[str, str]:
    """Returns file -> SHA-256 of the cells, once written."""
    if not cells:
        return {}
    out, written = task.request.out, {}
    pixels = decode(task.image.path, task.channels)
    for cell in cells:
        data, name = _picture(task, pixels, *cell), file_name(task, *cell)
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(out / name, data, scratch=out / SCRATCH)
        written[name] = hashlib.sha256(data).hexdigest()
    return written


def _sha256(path: Path) -> str | None:
    try:
        return files.sha256(path)
    except OSError:
        return None


def _link_label(label: Path, target: Path) -> None:
    """Puts the labels beside their image; without a label file there is none in the set either."""
    if not label.is_file():
        target.unlink(missing_ok=True)
        return
    if files.same_file(target, label):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    files.link_or_copy(label, target)
