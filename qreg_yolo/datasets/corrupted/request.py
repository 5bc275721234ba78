"""What is asked for, checked before anything is written, and what follows from it for each image."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any

import cv2

from qreg_yolo import __version__
from qreg_yolo.corrupt.frost import load_overlays
from qreg_yolo.corrupt.presets import constants
from qreg_yolo.datasets.corrupted.manifest import LAYOUT, SetsError
from qreg_yolo.datasets.image_io import FORMATS
from qreg_yolo.datasets.sources import ImageSource, SourceImage, select_images
from qreg_yolo.errors import InvalidValueError, did_you_mean

DEFAULT_QUALITY = 95
"""Of jpg."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Which sets, and how. Validated on construction.

    Raises:
        ValueError: An unknown corruption, severity, preset or format (the nearest is named), or a number out of range.
    """

    out: Path
    """Folder of the sets."""
    corruptions: tuple[str, ...]
    """Of the 19."""
    severities: tuple[int, ...]
    """1..5."""
    preset: str = "imagenet224"
    """Whose constants."""
    seed: int = 0
    """Of all draws, 0 or more."""
    format: str = "png"
    """`png` and `webp` lose nothing; `jpg` compresses once more."""
    quality: int | None = None
    """Of jpg, 1..100; None: 95."""
    frost_dir: Path | None = None
    """Overlays of frost; None: `load_overlays`."""
    limit: int | None = None
    """A fixed random subset of so many images (`select_images`); None: all."""
    skip_bad: bool = False
    """Leave out what cannot be used, instead of refusing it."""
    workers: int = 0
    """Processes; 0: this one."""

    def __post_init__(self) -> None:
        for name in self.corruptions:
            for severity in self.severities:
                constants(name, severity, self.preset)
        if not self.corruptions or not self.severities:
            raise InvalidValueError("No corruption or no severity is asked for. Give at least one of each.")
        if self.format not in FORMATS:
            known = ", ".join(FORMATS)
            raise InvalidValueError(
                f"Unknown format '{self.format}'.{did_you_mean(self.format, FORMATS)} Known: {known}."
            )
        if self.quality is not None and self.format != "jpg":
            raise InvalidValueError(f"quality={self.quality} is for jpg; {self.format} loses nothing. Leave it out.")
        for key, value, low, high in (
            ("quality", self.quality, 1, 100),
            ("seed", self.seed, 0, None),
            ("limit", self.limit, 1, None),
            ("workers", self.workers, 0, 256),
        ):
            if value is not None and (value < low or (high is not None and value > high)):
                raise InvalidValueError(
                    f"{key}={value}: use {low} to {high}." if high else f"{key}={value}: use {low} or more."
                )

    @property
    def cells(self) -> list[tuple[str, int]]:
        """(corruption, severity) of each set."""
        return [(name, severity) for name in self.corruptions for severity in self.severities]


def choose_images(source: ImageSource, request: Request) -> dict[str, SourceImage]:
    """Returns the images to corrupt, by what their files are called (without the suffix).

    That is their place without its suffix; with it where another image differs in the suffix alone.
    """
    bare = Counter(_bare(image.place) for image in source.images)
    chosen = select_images(source.images, request.limit)
    return {_bare(image.place) if bare[_bare(image.place)] == 1 else image.place: image for image in chosen}


def settings_of(source: Path, split: str | None, places: list[str], request: Request) -> dict[str, Any]:
    """Returns all that decides what is written into each set."""
    quality = (request.quality or DEFAULT_QUALITY) if request.format == "jpg" else None
    return {
        "layout": LAYOUT,
        "source": str(source),
        "split": split,
        "limit": request.limit,
        "images": len(places),
        "image_list_sha256": hashlib.sha256("\n".join(places).encode("utf-8", "surrogateescape")).hexdigest()[:16],
        "preset": request.preset,
        "seed": request.seed,
        "format": request.format,
        "quality": quality,
        "frost": load_overlays(request.frost_dir).identity,
        "versions": _versions(),
    }


def check_apart(out: Path, source: Path, images: Collection[SourceImage] = ()) -> None:
    """Raises where sets would be written into their source, or around it.

    Args:
        out: Folder of the sets.
        source: The data YAML or folder that is read.
        images: Its images; neither their folders nor those of their labels may hold ``out``.

    Raises:
        SetsError: One of the two.
    """
    target, read = out.resolve(), {image.folder for image in images}
    homes = {next((home for home in folder.parents if home.name == "images"), folder) for folder in read}
    labels = {image.label.parent for image in images if image.label.parent.is_dir()}
    for folder in sorted({*read, *homes, *labels, *([source] if source.is_dir() else [])}):
        if target.is_relative_to(folder.resolve()):
            raise SetsError(f"'{out}' lies in the source's folder '{folder}'. Give a folder outside it.")
    for path in (source, *sorted(read)):
        if path.resolve().is_relative_to(target):
            raise SetsError(f"The source '{path}' lies in '{out}', where the sets would go. Give another folder.")


def _bare(place: str) -> str:
    return str(PurePosixPath(place).with_suffix(""))


def _versions() -> Mapping[str, str]:
    """Returns the versions of what decides a pixel."""
    found = {"qreg-yolo": __version__, "opencv": cv2.__version__}
    for name in ("numpy", "pillow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
