"""Which images a data description has, what the draws of each hang on, and where its labels lie.

The one place that says so: what is corrupted on the way to a model and what is written to disk agree through it.
Folders, lists and relative paths are resolved as Ultralytics does; neither it nor torch is imported.
"""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qreg_yolo.corrupt.apply import image_key
from qreg_yolo.errors import DataError, InvalidValueError, MissingFileError
from qreg_yolo.io import strict_yaml

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".dng", ".heic", ".heif", ".jp2", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp"}
)
"""The host's types of images."""
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class SourceImage:
    """One image of a split."""

    key: str
    """What its draws hang on (`corrupt.image_key`): its path relative to `folder`, with ``/``."""
    place: str
    """Its path relative to what all folders of the split have in common: unique; `key` where there is one folder."""
    path: Path
    """The file; absolute."""
    folder: Path
    """Its split's image folder. For an image named by a ``.txt`` list: the last folder called ``images`` above it, or
    its own folder where there is none. Absolute."""
    label: Path
    """Where the host looks for its labels; the file need not exist."""


@dataclass(frozen=True)
class ImageSource:
    """The images of one split, in the order in which the host validates them."""

    path: Path
    """The data YAML, or the folder."""
    split: str | None
    """The split that was read; None for a plain folder."""
    images: tuple[SourceImage, ...]
    names: dict[int, str]
    """Class id -> name; empty for a plain folder, or where the YAML gives none."""
    channels: int
    """What the host decodes images to: 3 (colour, grey images too) or 1."""


def read_source(path: Path, split: str | None = None, *, datasets_dir: Path | None = None) -> ImageSource:
    """Returns the images of a data YAML's split, or of a plain folder (searched through, as the host does).

    A relative ``path:`` is looked for in the current folder, in ``datasets_dir``, then beside the YAML.

    Images of several folders may have equal keys (``a/1.jpg`` and ``b/1.jpg`` of the folders a and b): they get the
    same draws, and differ in `SourceImage.place`. An image that two entries name counts once, under its first key.

    Args:
        path: A data YAML, or a folder of images.
        split: ``train``, ``val`` or ``test``; None: ``test`` where the YAML has one, else ``val``.
        datasets_dir: The host's folder for data sets, where it is known.

    Raises:
        FileNotFoundError: No such file or folder.
        DataError: No data description, no such split, a folder or list that is missing, or no images.
        ConfigError: The YAML cannot be read.
    """
    if path.is_dir():
        if split is not None:
            raise DataError(f"'{path}' is a folder, it has no split '{split}'. Leave the split out, or give a YAML.")
        images = _images([(None, path.resolve())])
        if not images:
            raise DataError(f"'{path}' has no images. Known types: {_types()}.")
        return ImageSource(path.absolute(), None, images, {}, 3)
    if not path.is_file():
        raise MissingFileError(f"There is no data YAML or folder '{path}'. Give the path of one that exists.")
    data = strict_yaml.load(path)
    if not isinstance(data, dict):
        raise DataError(f"'{path}' is no data description: it holds {data!r:.80}. Give a YAML with val: and names:.")
    split = _split(path, data, split)
    entries = data[split] if isinstance(data[split], list) else [data[split]]
    base = _base(path, data, datasets_dir)
    images = _images([_resolve(path, split, base, str(entry)) for entry in entries])
    if not images:
        raise DataError(f"'{path}': {split} ('{entries[0]}') has no images. Known types: {_types()}.")
    channels = data.get("channels", 3)
    if channels not in (1, 3):
        raise DataError(f"'{path}' has channels: {channels!r}. Corruptions need images of 3 or 1 channels.")
    return ImageSource(path.absolute(), split, images, _names(path, data), channels)


def select_images(images: Sequence[SourceImage], limit: int | None) -> tuple[SourceImage, ...]:
    """Returns a fixed random subset, in the order of ``images``: those whose keys have the lowest hashes.

    It depends on the keys alone, and a smaller subset lies within a larger one.

    Args:
        images: To choose from.
        limit: How many; None, or more than there are: all.

    Raises:
        ValueError: Less than 1.
    """
    return tuple(images[i] for i in select_keys([image.key for image in images], limit))


def select_keys(keys: Sequence[str], limit: int | None) -> list[int]:
    """Returns where in ``keys`` the subset of `select_images` stands, ascending; of equal keys the first comes first.

    Raises:
        ValueError: Less than 1.
    """
    if limit is None:
        return list(range(len(keys)))
    if limit < 1:
        raise InvalidValueError(f"limit={limit}: use 1 or more images.")
    return sorted(sorted(range(len(keys)), key=lambda i: (_hash(keys[i]), i))[:limit])


def label_path(image: Path) -> Path:
    """Returns where the host looks for an image's labels: the last ``images`` folder above it replaced by ``labels``.

    >>> label_path(Path("/voc/images/test2007/1.jpg")).as_posix()
    '/voc/labels/test2007/1.txt'
    """
    inside, above = f"{os.sep}images{os.sep}", f"{os.sep}labels{os.sep}"
    return Path(above.join(str(image).rsplit(inside, 1)).rsplit(".", 1)[0] + ".txt")


def _hash(key: str) -> bytes:
    return hashlib.blake2b(b"subset " + key.encode("utf-8", "surrogateescape"), digest_size=16).digest()


def _types() -> str:
    return ", ".join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))


def _split(path: Path, data: dict[str, Any], split: str | None) -> str:
    """Returns the split to read."""
    if split is not None and split not in SPLITS:
        raise DataError(f"split='{split}' is not one of: {', '.join(SPLITS)}.")
    found = [name for name in ("test", "val", "train") if data.get(name)]
    if split is None and found:
        split = found[0] if found != ["train"] else None
    if split is None or split not in found:
        wanted = f"'{split}'" if split else "'test' or 'val'"
        raise DataError(f"'{path}' has no {wanted} images. It has: {', '.join(found) or 'no split'}.")
    if not isinstance(data[split], (str, list)):
        raise DataError(f"'{path}': {split} is {data[split]!r:.80}. Give a folder, a .txt list, or a list of them.")
    return split


def _names(path: Path, data: dict[str, Any]) -> dict[int, str]:
    names = data.get("names")
    if not names and isinstance(data.get("nc"), int):
        return {number: f"class_{number}" for number in range(data["nc"])}  # as the host calls them
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) and names is not None:
        raise DataError(f"'{path}': names is {names!r:.80}. Give a list or a mapping of classes.")
    try:
        return {int(number): str(name) for number, name in (names or {}).items()}
    except (TypeError, ValueError):
        raise DataError(
            f"'{path}': the class ids in names are {list(names or ())!r:.80}. Number them from 0."
        ) from None


def _base(path: Path, data: dict[str, Any], datasets_dir: Path | None) -> Path:
    """Returns the folder that the entries of a YAML are relative to."""
    if not data.get("path"):
        return path.parent
    base = Path(str(data["path"]))
    places = [base, *([datasets_dir / base] if datasets_dir else []), path.parent / base]
    return next((place for place in places if place.exists()), base)


def _resolve(path: Path, split: str, base: Path, entry: str) -> tuple[Path | None, Path]:
    """Returns (list file, its folder) or (None, image folder)."""
    place = base / entry
    if not place.exists() and entry.startswith("../"):
        place = base / entry[3:]
    if not place.exists():
        raise DataError(
            f"'{path}': {split} points to '{place.absolute()}', which does not exist. Put the data set there, or give "
            f"a data YAML with another '{split}:' or 'path:'."
        )
    place = place.resolve()
    return (None, place) if place.is_dir() else (place, place.parent)


def _images(entries: Iterable[tuple[Path | None, Path]]) -> tuple[SourceImage, ...]:
    """Returns the images of all entries, each once, sorted by path as the host does."""
    found: dict[Path, Path] = {}
    for listing, folder in entries:
        for image in _listed(listing) if listing else _in_folder(folder):
            if image.suffix.lower() in IMAGE_SUFFIXES:
                found.setdefault(image, folder if listing is None else _images_folder(image))
    if not found:
        return ()
    top = Path(os.path.commonpath(list(found.values())))
    return tuple(
        SourceImage(image_key(image, found[image]), image_key(image, top), image, found[image], label_path(image))
        for image in sorted(found, key=str)
    )


def _in_folder(folder: Path) -> list[Path]:
    return [Path(name) for name in glob.glob(f"{glob.escape(str(folder))}/**/*.*", recursive=True)]


def _listed(listing: Path) -> list[Path]:
    """Returns the images of a list: ``./`` is the list's folder, other relative paths start in the current one."""
    try:
        lines = listing.read_text(encoding="utf-8-sig").strip().splitlines()
    except UnicodeDecodeError:
        raise DataError(f"'{listing}' is no text file: give a folder of images, or a list with one per line.") from None
    return [Path(os.path.abspath(listing.parent / line[2:] if line.startswith("./") else line)) for line in lines]


def _images_folder(image: Path) -> Path:
    return next((folder for folder in image.parents if folder.name == "images"), image.parent)
