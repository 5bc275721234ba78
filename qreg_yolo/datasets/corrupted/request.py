"""The request for corrupted images, checked before anything is written: images, settings, place."""

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
from qreg_yolo.datasets.corrupted.manifest import LAYOUT
from qreg_yolo.datasets.image_io import FORMATS
from qreg_yolo.datasets.sources import ImageSource, SourceImage, select_images
from qreg_yolo.errors import DataError, InvalidValueError, did_you_mean

DEFAULT_QUALITY = 95
"""Quality of jpg."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """The corrupted copies to write, validated on construction.

    Raises:
        ValueError: An unknown corruption, severity, preset or format (the nearest is named), or a number out of range.
    """

    out: Path
    """Output folder."""
    corruptions: tuple[str, ...]
    """Names of corruptions."""
    severities: tuple[int, ...]
    """1..5."""
    preset: str = "imagenet224"
    """Name of the corruptions' constants."""
    seed: int = 0
    """Seed of the corruptions, 0 or more."""
    format: str = "png"
    """`png` and `webp` are lossless; `jpg` is lossy."""
    quality: int | None = None
    """Quality of jpg, 1..100; None: 95."""
    frost_dir: Path | None = None
    """Folder of frost overlays; None: as `load_overlays`."""
    limit: int | None = None
    """Size of a fixed random subset (`select_images`); None: all."""
    skip_bad: bool = False
    """Leave out images that cannot be used, instead of refusing them."""
    workers: int = 0
    """Processes; 0: this one."""

    def __post_init__(self) -> None:
        for name in self.corruptions:
            for severity in self.severities:
                constants(name, severity, self.preset)
        if not self.corruptions or not self.severities:
            raise InvalidValueError("No corruption or no severity was given. Give at least one of each.")
        if self.format not in FORMATS:
            known = ", ".join(FORMATS)
            raise InvalidValueError(
                f"Unknown format '{self.format}'.{did_you_mean(self.format, FORMATS)} Known: {known}."
            )
        if self.quality is not None and self.format != "jpg":
            raise InvalidValueError(f"quality={self.quality} applies to jpg; {self.format} is lossless. Remove it.")
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
    def conditions(self) -> list[tuple[str, int]]:
        """(corruption, severity) of each copy."""
        return [(name, severity) for name in self.corruptions for severity in self.severities]


def choose_images(source: ImageSource, request: Request) -> dict[str, SourceImage]:
    """Returns the images to corrupt, by the name of their files without the suffix.

    That is their place without its suffix; with it if that is the name of another image too.
    """
    bare = {image.place: str(PurePosixPath(image.place).with_suffix("")) for image in source.images}
    count = Counter([*bare.values(), *bare])
    chosen = select_images(source.images, request.limit)
    return {bare[one.place] if count[bare[one.place]] == 1 else one.place: one for one in chosen}


def settings_of(source: Path, split: str | None, places: list[str], request: Request) -> dict[str, Any]:
    """Returns every setting on which a written file depends."""
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
    """Raises if the output folder is inside the source or contains it.

    Args:
        out: Output folder.
        source: The data YAML or folder that is read.
        images: Its images; neither their folders nor those of their labels may contain ``out``.

    Raises:
        DataError: One of the two.
    """
    target, read = out.resolve(), {image.folder for image in images}
    homes = {next((home for home in folder.parents if home.name == "images"), folder) for folder in read}
    labels = {image.label.parent for image in images if image.label.parent.is_dir()}
    for folder in sorted({*read, *homes, *labels, *([source] if source.is_dir() else [])}):
        if target.is_relative_to(folder.resolve()):
            raise DataError(f"'{out}' is in the source's folder '{folder}'. Give a folder outside it.")
    for path in (source, *sorted(read)):
        if path.resolve().is_relative_to(target):
            raise DataError(f"The source '{path}' is in the output folder '{out}'. Give another folder.")


def _versions() -> Mapping[str, str]:
    """Returns the versions of the packages on which a pixel depends."""
    found = {"qreg-yolo": __version__, "opencv": cv2.__version__}
    for name in ("numpy", "pillow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
