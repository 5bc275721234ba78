"""The images and class names of a data YAML or a folder: the one resolver of all commands.

The rules are Ultralytics' (`check_det_dataset`, `get_img_files`). Whatever it would drop or misread in silence is an
error here, so the checked images are the ones it trains on. Imports neither Ultralytics nor torch.
"""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from qreg_yolo.datasets.classes import class_names, placeholder_names
from qreg_yolo.datasets.labels import label_path
from qreg_yolo.errors import DataError, InvalidValueError, MissingFileError, fault_list
from qreg_yolo.io import strict_yaml
from qreg_yolo.io.resources import data_names, data_path

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".dng", ".heic", ".heif", ".jp2", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp"}
)
"""Ultralytics' types of images."""
SPLITS = ("train", "val", "test")
_TYPES = ", ".join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))


@dataclass(frozen=True)
class SourceImage:
    """One image of a split."""

    key: str
    """Seeds its random draws (`corrupt.image_key`): its path relative to `folder`, with ``/``."""
    place: str
    """Its path relative to the common parent of all folders of the split. Unique: an image that is listed again gets
    ``~2`` before its suffix."""
    path: Path
    """The file; absolute."""
    folder: Path
    """Its split's image folder. For an image of a ``.txt`` list: the last folder called ``images`` above it, or its own
    folder by default. Absolute."""
    label: Path
    """Its label file in Ultralytics' layout; it need not exist."""


@dataclass(frozen=True)
class ImageSource:
    """The images of one split, in Ultralytics' order."""

    path: Path
    """The data YAML, or the folder."""
    split: str | None
    """The split that was read; None for a plain folder."""
    images: tuple[SourceImage, ...]
    names: dict[int, str]
    """Class id -> name; ``class_0``, ... for a YAML with ``nc`` alone; empty for a plain folder."""
    channels: int
    """Channels that Ultralytics decodes: 3 (colour, grey images too), 1 or more."""


def find_data(name: str) -> Path:
    """Returns the data that a command line names: ``demo`` (written on first use), a shipped name, a YAML or a folder.

    The path is absolute: checkpoints keep it, and are used from other folders.

    Raises:
        FileNotFoundError: Nothing of that name (the nearest is named).
    """
    if name == "demo":
        from qreg_yolo.datasets.demo.write import ensure_demo_data  # loads OpenCV

        return ensure_demo_data()
    is_folder = Path(name).is_dir() and name not in data_names()
    return (Path(name) if is_folder else data_path(name)).absolute()


def read_source(path: Path, split: str | None = None, *, datasets_dir: Callable[[], Path] | None = None) -> ImageSource:
    """Returns the images of a data YAML's split, or of a plain folder and its subfolders.

    An image that is listed twice counts twice, as in Ultralytics. Images of several folders may have equal keys
    (``a/1.jpg`` and ``b/1.jpg`` of the folders a and b): they get the same draws, and differ in `SourceImage.place`.

    Args:
        path: A data YAML, or a folder of images.
        split: ``train``, ``val`` or ``test``; None: ``test`` if the YAML has one, else ``val``.
        datasets_dir: Returns Ultralytics' folder of datasets, where a relative ``path:`` is looked for if the current
            folder does not have it.

    Raises:
        FileNotFoundError: No such file or folder.
        DataError: A YAML that cannot be read or that Ultralytics reads differently, no such split, a missing folder or
            list, a list with a line that is not an image, or no images.
    """
    if path.is_dir():
        if split is not None:
            raise DataError(f"'{path}' is a folder and has no split '{split}'. Omit the split, or give a data YAML.")
        found = list_images([path.resolve()], f"'{path}'")
        return ImageSource(path.absolute(), None, _source_images(found), {}, 3)
    if not path.is_file():
        raise MissingFileError(f"There is no data YAML or folder '{path}'. Give the path of one that exists.")
    data, names = _read_yaml(path)
    split = _choose_split(path, data, split)
    entries, base = data[split], _base(path, data.get("path"), datasets_dir)
    if isinstance(entries, list):
        places = [(base / entry).resolve() for entry in entries]
    else:
        places = [(base / entries).resolve()]
        if not places[0].exists() and entries.startswith("../"):  # in lists, Ultralytics takes it literally
            places = [(base / entries[3:]).resolve()]
    found = list_images(places, f"'{path}': {split}")
    return ImageSource(path.absolute(), split, _source_images(found), names, _channels(path, data))


def list_images(places: Sequence[Path], owner: str) -> list[tuple[Path, Path]]:
    """Returns the images of folders and ``.txt`` lists, each with its folder (`SourceImage.folder`).

    The order is Ultralytics': by path, as it is written in a list. Paths in lists that begin with ``./`` start in the
    list's folder, other relative ones in the current folder.

    Args:
        places: Folders and lists.
        owner: The subject of error texts: whose images they are.

    Raises:
        DataError: A place does not exist, a line of a list is not an image, or there are no images.
    """
    found: list[tuple[str, Path | None]] = []
    for place in places:
        if not place.exists():
            raise DataError(
                f"{owner} points to '{place}', which does not exist. Put the dataset there, or correct the entry or "
                "'path:' in the data YAML ('path:' starts in the current folder, else in Ultralytics' folder of "
                "datasets; without it, entries start in the YAML's folder; '../' in a list is taken literally)."
            )
        if place.is_dir():
            paths = glob.iglob(f"{glob.escape(str(place))}/**/*.*", recursive=True)
            found += [(name, place) for name in paths if _is_image(name)]
        else:
            found += [(name, None) for name in _read_list(place)]
    if not found:
        raise DataError(f"{owner} ('{places[0]}') has no images. Known types: {_TYPES}.")
    images = [(Path(os.path.abspath(name)), folder) for name, folder in sorted(found, key=lambda pair: pair[0])]
    return [(image, folder or _images_folder(image)) for image, folder in images]


def check_channels(path: Path, channels: int) -> None:
    """Raises unless the images of a data YAML can be corrupted.

    Raises:
        DataError: They have neither 3 nor 1 channels.
    """
    if channels not in (1, 3):
        raise DataError(f"'{path}' has channels: {channels}. Corruptions need images of 3 or 1 channels.")


def select_images(images: Sequence[SourceImage], limit: int | None) -> tuple[SourceImage, ...]:
    """Returns a fixed random subset, in the order of ``images``: those whose keys have the lowest hashes.

    It depends on the keys alone, and a larger subset contains every smaller one.

    Args:
        images: To choose from.
        limit: Size of the subset; None, or more than all: all.

    Raises:
        ValueError: Less than 1.
    """
    return tuple(images[i] for i in select_keys([image.key for image in images], limit))


def select_keys(keys: Sequence[str], limit: int | None) -> list[int]:
    """Returns the indices of the subset of `select_images`, ascending; of equal keys the first comes first.

    Raises:
        ValueError: Less than 1.
    """
    if limit is None:
        return list(range(len(keys)))
    if limit < 1:
        raise InvalidValueError(f"limit={limit}: use 1 or more images.")
    return sorted(sorted(range(len(keys)), key=lambda i: (_hash(keys[i]), i))[:limit])


def _hash(key: str) -> bytes:
    return hashlib.blake2b(b"subset " + key.encode("utf-8", "surrogateescape"), digest_size=16).digest()


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[int, str]]:
    """Returns a data YAML as Ultralytics reads it (YAML 1.1), and its class names as written.

    Raises:
        DataError: It cannot be read, lacks a key, or has a value of another type than Ultralytics takes.
    """
    try:
        written = strict_yaml.load(path, as_text=True)  # refuses other encodings and keys that are given twice
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except strict_yaml.ConfigError as error:
        raise DataError(str(error)) from error
    except (yaml.YAMLError, ValueError) as error:  # such as a date that does not exist
        raise DataError(f"'{path}' cannot be read by Ultralytics: {error}. Correct it there.") from error
    if not isinstance(data, dict) or not isinstance(written, dict):
        raise DataError(f"'{path}' is not a data description: it holds {data!r:.80}. Give train:, val: and names:.")
    for key in ("train", "val"):
        if key not in data:
            raise DataError(
                f"'{path}' has no '{key}'. Add it: train: and val: are image folders (Ultralytics wants both in every "
                "data YAML; the one that is not used may be empty)."
            )
    for key in ("path", *SPLITS):
        value = data.get(key)
        entries = value if isinstance(value, list) and key != "path" else [] if value is None else [value]
        if wrong := [entry for entry in entries if not isinstance(entry, str)]:
            kinds = "a folder" if key == "path" else "a folder, a .txt list, or a list of them"
            raise DataError(
                f"'{path}': {key} is {wrong[0]!r:.80} to Ultralytics, not a path. Give {kinds}, in quotes if it looks "
                "like a number, a date, true or false."
            )
    return data, _names(path, data, written)


def _names(path: Path, data: dict[str, Any], written: dict[str, Any]) -> dict[int, str]:
    """Returns the classes by number; those of a YAML with ``nc`` alone are called as Ultralytics calls them."""
    names: Any = data.get("names")
    texts: Any = written.get("names")
    n_classes = _class_count(path, data)
    if names is None and n_classes:
        return dict(enumerate(placeholder_names(n_classes)))
    if not names:
        raise DataError(f"'{path}' has no 'names'. Add it: a list of the classes.")
    if not isinstance(names, (list, dict)) or type(texts) is not type(names):
        raise DataError(f"'{path}': names is {names!r:.80}. Give a list or a mapping of classes.")
    if isinstance(texts, dict) and sorted(texts) != sorted(map(str, range(len(texts)))):
        raise DataError(f"'{path}': the class ids in names are {[*texts]!r:.80}. Number them from 0, without gaps.")
    if n_classes not in (None, len(names)):
        raise DataError(f"'{path}': nc is {data['nc']}, but names has {len(names)} classes. Remove nc.")
    pairs = list(zip(class_names(texts), class_names(names), strict=True))
    if other := [f"{text} (read as {read})" for text, read in pairs if text != read]:
        raise DataError(
            f"'{path}': YAML has another meaning for the class names {', '.join(other)}. Put quotes around them."
        )
    return {number: text for number, (text, _) in enumerate(pairs)}


def _class_count(path: Path, data: dict[str, Any]) -> int | None:
    """Returns ``nc``, None if it is not given; Ultralytics takes 2, 2.0 and '2'."""
    if "nc" not in data:
        return None
    try:
        if (value := float(data["nc"])) == int(value) > 0:
            return int(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise DataError(f"'{path}': nc is {data['nc']!r:.80}. Give the number of classes, or remove nc and give names.")


def _channels(path: Path, data: dict[str, Any]) -> int:
    channels = data.get("channels", 3)
    if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
        raise DataError(f"'{path}': channels is {channels!r:.80}. Give 3 (colour), 1 (grey), or remove it.")
    return channels


def _choose_split(path: Path, data: dict[str, Any], split: str | None) -> str:
    """Returns the split to read."""
    if split is not None and split not in SPLITS:
        raise DataError(f"split='{split}' is not one of: {', '.join(SPLITS)}.")
    present = [name for name in SPLITS if data.get(name)]
    chosen = split or ("test" if "test" in present else "val")
    if chosen not in present:
        wanted = f"'{split}'" if split else "'test' or 'val'"
        raise DataError(f"'{path}' has no {wanted} images. It has: {', '.join(present) or 'no split'}.")
    return chosen


def _base(path: Path, given: str | None, datasets_dir: Callable[[], Path] | None) -> Path:
    """Returns the folder to which the entries of a YAML are relative."""
    base = Path(given or path.parent)
    if base.exists() or base.is_absolute() or datasets_dir is None:
        return base
    return datasets_dir() / base


def _is_image(name: str) -> bool:
    return f".{name.rpartition('.')[-1].lower()}" in IMAGE_SUFFIXES


def _read_list(listing: Path) -> Iterator[str]:
    """Yields the paths in a list.

    Raises:
        DataError: Not UTF-8 text, or a line that Ultralytics would skip or take for another path.
    """
    try:
        lines = listing.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError(
            f"'{listing}' is not UTF-8 text. Give a folder of images, or a list with one path per line in UTF-8."
        ) from None
    faults = [
        f"line {number}: {line!r:.80}"
        for number, line in enumerate(lines, start=1)
        if line.strip() and (line != line.strip() or not _is_image(line))
    ]
    if faults:
        raise DataError(
            f"'{listing}': {len(faults)} lines are not the path of an image alone. Remove them, and blanks at their "
            f"ends. Known types: {_TYPES}.{fault_list(faults)}"
        )
    for line in lines:
        if line.strip():
            yield f"{listing.parent}{os.sep}{line[2:]}" if line.startswith("./") else line


def _images_folder(image: Path) -> Path:
    return next((folder for folder in image.parents if folder.name == "images"), image.parent)


def _source_images(found: Sequence[tuple[Path, Path]]) -> tuple[SourceImage, ...]:
    from qreg_yolo.corrupt.apply import image_key  # loads OpenCV

    top = Path(os.path.commonpath([folder for _, folder in found]))
    images: dict[str, SourceImage] = {}
    for image, folder in found:
        first = place = image_key(image, top)
        number = 1
        while place in images:
            number += 1
            place = str(PurePosixPath(first).with_stem(f"{PurePosixPath(first).stem}~{number}"))
        images[place] = SourceImage(image_key(image, folder), place, image, folder, label_path(image))
    return tuple(images.values())
