"""The check of a data set before any work is lost on it."""

from __future__ import annotations

import glob
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from ultralytics.data.utils import IMG_FORMATS, img2label_paths
from ultralytics.utils import DATASETS_DIR

from qreg_yolo.datasets.classes import class_names
from qreg_yolo.datasets.demo.write import ensure_demo_data
from qreg_yolo.detect.dataset import Label, scan, usable
from qreg_yolo.errors import DataError
from qreg_yolo.io import strict_yaml
from qreg_yolo.io.resources import data_path


@dataclass(frozen=True)
class CheckedData:
    """A data set that has been looked at."""

    yaml: Path
    """Its data YAML."""
    n_images: dict[str, int]
    """Images by split; how many a run uses is counted there."""
    names: tuple[str, ...]
    """The classes."""
    labels: dict[str, Label] = field(repr=False)
    """Path of an image -> its label as Ultralytics' data set takes it."""


def find_data(name: str) -> Path:
    """Returns the data YAML that ``--data`` names: ``demo`` (written on first use), a shipped name, or a path.

    The path is absolute: checkpoints keep it, and are used from other folders.

    Raises:
        FileNotFoundError: Nothing of that name (the nearest is named).
    """
    return (ensure_demo_data() if name == "demo" else data_path(name)).absolute()


def check_data(path: Path, splits: tuple[str, ...] = ("train", "val"), *, single_cls: bool = False) -> CheckedData:
    """Returns what a data YAML describes, after a look at every image header and label file of ``splits``.

    Args:
        path: The data YAML.
        splits: Which splits to look at.
        single_cls: Whether every object counts as of one class, so that a label's class number does not matter.

    Raises:
        DataError: No YAML mapping, a split or names missing, a folder without images or without labels, an image that
            cannot be read, or a label that is malformed or has a class beyond the names.
    """
    data = _description(path, splits)
    names = class_names(data["names"])
    counts: dict[str, int] = {}
    labels: dict[str, Label] = {}
    for split in splits:
        images = [str(image) for image in _images(path, data, split)]
        found = _labels(images, split, len(names), single_cls)
        counts[split] = len(images)
        labels |= dict(zip(images, found, strict=True))
    return CheckedData(yaml=path, n_images=counts, names=tuple(names), labels=labels)


def _labels(images: list[str], split: str, n_classes: int, single_cls: bool) -> list[Label]:
    """Returns the label of every image of a split, none of which has a fault."""
    pairs = [(Path(image), Path(label)) for image, label in zip(images, img2label_paths(images), strict=True)]
    found = scan(pairs, n_classes, single_cls=single_cls, title=f"{split}: Checking images and labels")
    labels = usable(found, split)
    if not any(label.is_file() for _, label in pairs):
        raise DataError(
            f"{split}: none of {len(pairs)} images has a label file. The first one's is looked for at '{pairs[0][1]}'."
        )
    return labels


def _description(path: Path, splits: tuple[str, ...]) -> dict[str, Any]:
    """Returns the content of a data YAML that has the splits and usable names."""
    try:
        data = strict_yaml.load(path)
    except strict_yaml.ConfigError as error:
        raise DataError(str(error)) from error
    if not isinstance(data, dict):
        raise DataError(f"{path} is not a data description: it holds {data!r:.80}. Give train:, val: and names:.")
    for key in (*splits, "names"):
        if not data.get(key):
            raise DataError(f"{path} has no '{key}'. Add it: train: and val: are image folders, names: the classes.")
    for split in splits:
        if not isinstance(data[split], (str, list)):
            raise DataError(f"{path}: {split} is {data[split]!r:.80}, not a folder. Give a folder, or a list of them.")
    if not isinstance(data.get("path"), (str, type(None))):
        raise DataError(
            f"{path}: path is {data['path']!r:.80}, not a folder. Give the data set's folder, or drop path:."
        )
    names = data["names"]
    if not isinstance(names, (list, dict)):
        raise DataError(f"{path}: names is {names!r:.80}, not a list or a mapping of classes.")
    if isinstance(names, dict) and sorted(map(str, names)) != sorted(map(str, range(len(names)))):
        raise DataError(f"{path}: the class ids in names are {[*names]!r:.80}. Number them from 0, without gaps.")
    _check_reading(path, class_names(names))
    if data.get("nc", len(names)) != len(names):
        raise DataError(f"{path}: nc is {data['nc']}, but names has {len(names)} classes. Drop nc: names is enough.")
    return data


def _check_reading(path: Path, names: list[str]) -> None:
    """Raises where Ultralytics reads another name in a class than is written, such as False in ``no``.

    It follows YAML 1.1, and keeps what it reads in the checkpoint.

    Raises:
        DataError: It does; the names are given.
    """
    try:
        theirs = class_names(yaml.safe_load(path.read_text(encoding="utf-8"))["names"])
    except (yaml.YAMLError, ValueError) as error:
        raise DataError(f"{path} cannot be read by Ultralytics: {error}. Correct it there.") from error
    other = [f"{name} (read as {read})" for name, read in zip(names, theirs, strict=True) if name != read]
    if other:
        raise DataError(
            f"{path}: YAML has another meaning for the class names {', '.join(other)}. Put quotes around them."
        )


def _images(path: Path, data: dict[str, Any], split: str) -> list[Path]:
    """Returns the images of a split, resolved as the host does: folders (searched through) or list files."""
    base = Path(str(data.get("path") or path.parent))
    if not base.exists() and not base.is_absolute():
        base = DATASETS_DIR / base
    entries = data[split] if isinstance(data[split], list) else [data[split]]
    found: list[Path] = []
    for entry in map(str, entries):
        place = base / entry
        if not place.exists() and entry.startswith("../"):
            place = base / entry[3:]
        place = place.resolve()  # as Ultralytics does, so that both name an image alike
        if place.is_dir():
            found += [Path(p) for p in sorted(glob.glob(f"{glob.escape(str(place))}/**/*.*", recursive=True))]
        elif place.is_file():
            lines = place.read_text(encoding="utf-8-sig").strip().splitlines()
            found += [place.parent / line[2:] if line.startswith("./") else Path(line) for line in lines]
        else:
            raise DataError(
                f"{path}: {split} points to '{place.absolute()}', which does not exist. Put the data set there, or "
                f"give a data YAML with another '{split}:' or 'path:'."
            )
    found = [path for path in found if path.suffix[1:].lower() in IMG_FORMATS]
    if not found:
        raise DataError(
            f"{path}: {split} ('{entries[0]}') has no images. Known types: {', '.join(sorted(IMG_FORMATS))}."
        )
    return found
