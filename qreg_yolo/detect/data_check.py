"""Looks at a data set before any work is lost on it: the host skips what it cannot read, we name it."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.lib.format import read_array_header_1_0, read_array_header_2_0, read_magic
from ultralytics.data.utils import IMG_FORMATS, img2label_paths
from ultralytics.utils import DATASETS_DIR

from qreg_yolo import strict_yaml
from qreg_yolo.detect.demo_data import ensure_demo_data
from qreg_yolo.resources import data_path
from qreg_yolo.safe_pickle import decode
from qreg_yolo.sets.pictures import look

SHOWN = 5
"""How many faults an error lists."""
MIN_SIDE = 10
"""Pixels; the host leaves smaller images out."""
_CACHE_NAMES = frozenset(
    ["numpy.dtype", "numpy.ndarray", "numpy._core.multiarray._reconstruct", "numpy.core.multiarray._reconstruct"]
)
"""What the host's cache of labels, a pickle, refers to."""


class DataError(ValueError):
    """A data set that cannot be trained or validated on."""


@dataclass(frozen=True)
class CheckedData:
    """A data set that has been looked at."""

    yaml: Path
    """Its data YAML."""
    n_images: dict[str, int]
    """Images by split."""
    names: tuple[str, ...]
    """The classes."""


def find_data(name: str) -> Path:
    """Returns the data YAML that ``--data`` names: ``demo`` (written on first use), a shipped name, or a path.

    The path is absolute: checkpoints keep it, and are used from other folders.

    Raises:
        FileNotFoundError: Nothing of that name (the nearest is named).
    """
    return (ensure_demo_data() if name == "demo" else data_path(name)).absolute()


def check_data(yaml: Path, splits: tuple[str, ...] = ("train", "val")) -> CheckedData:
    """Returns what a data YAML describes, after a look at every image header and label file of ``splits``.

    Raises:
        DataError: No YAML mapping, a split or names missing, a folder without images or without labels, an image that
            cannot be read, a label that is malformed or has a class beyond the names, a cache that would execute
            something.
    """
    data = _description(yaml, splits)
    counts = {}
    for split in splits:
        images = _images(yaml, data, split)
        _check_images(images, split)
        _check_labels(images, split, len(data["names"]))
        _check_caches(images)
        counts[split] = len(images)
    names = data["names"]
    listed = [names[key] for key in sorted(names, key=int)] if isinstance(names, dict) else names
    return CheckedData(yaml=yaml, n_images=counts, names=tuple(map(str, listed)))


def _description(yaml: Path, splits: tuple[str, ...]) -> dict[str, Any]:
    """Returns the content of a data YAML that has the splits and usable names."""
    try:
        data = strict_yaml.load(yaml)
    except strict_yaml.ConfigError as error:
        raise DataError(str(error)) from error
    if not isinstance(data, dict):
        raise DataError(f"{yaml} is not a data description: it holds {data!r:.80}. Give train:, val: and names:.")
    for key in (*splits, "names"):
        if not data.get(key):
            raise DataError(f"{yaml} has no '{key}'. Add it: train: and val: are image folders, names: the classes.")
    for split in splits:
        if not isinstance(data[split], (str, list)):
            raise DataError(f"{yaml}: {split} is {data[split]!r:.80}, not a folder. Give a folder, or a list of them.")
    if not isinstance(data.get("path"), (str, type(None))):
        raise DataError(
            f"{yaml}: path is {data['path']!r:.80}, not a folder. Give the data set's folder, or drop path:."
        )
    names = data["names"]
    if not isinstance(names, (list, dict)):
        raise DataError(f"{yaml}: names is {names!r:.80}, not a list or a mapping of classes.")
    if isinstance(names, dict) and sorted(map(str, names)) != sorted(map(str, range(len(names)))):
        raise DataError(f"{yaml}: the class ids in names are {[*names]!r:.80}. Number them from 0, without gaps.")
    if data.get("nc", len(names)) != len(names):
        raise DataError(f"{yaml}: nc is {data['nc']}, but names has {len(names)} classes. Drop nc: names is enough.")
    return data


def _images(yaml: Path, data: dict[str, Any], split: str) -> list[Path]:
    """Returns the images of a split, resolved as the host does: folders (searched through) or list files."""
    base = Path(str(data.get("path") or yaml.parent))
    if not base.exists() and not base.is_absolute():
        base = DATASETS_DIR / base
    entries = data[split] if isinstance(data[split], list) else [data[split]]
    found: list[Path] = []
    for entry in map(str, entries):
        place = base / entry
        if not place.exists() and entry.startswith("../"):
            place = base / entry[3:]
        if place.is_dir():
            found += [Path(p) for p in sorted(glob.glob(f"{glob.escape(str(place))}/**/*.*", recursive=True))]
        elif place.is_file():
            lines = place.read_text(encoding="utf-8-sig").strip().splitlines()
            found += [place.parent / line[2:] if line.startswith("./") else Path(line) for line in lines]
        else:
            raise DataError(
                f"{yaml}: {split} points to '{place.absolute()}', which does not exist. Put the data set there, or "
                f"give a data YAML with another '{split}:' or 'path:'."
            )
    found = [path for path in found if path.suffix[1:].lower() in IMG_FORMATS]
    if not found:
        raise DataError(
            f"{yaml}: {split} ('{entries[0]}') has no images. Known types: {', '.join(sorted(IMG_FORMATS))}."
        )
    return found


def _check_images(images: list[Path], split: str) -> None:
    faults = [f"{path}: {fault}" for path in images if (fault := look(path, MIN_SIDE)[0])]
    raise_if(faults, f"{split}: {len(faults)} of {len(images)} images cannot be read", "Repair or remove them.")


def _check_labels(images: list[Path], split: str, n_classes: int) -> None:
    labels = [Path(label) for label in img2label_paths([str(path) for path in images])]
    found = [path for path in labels if path.is_file()]
    if not found:
        raise DataError(
            f"{split}: none of {len(labels)} images has a label file. The first one's is looked for at '{labels[0]}'."
        )
    faults = [f"{path}, {fault}" for path in found for fault in _label_faults(path, n_classes)]
    raise_if(faults, f"{split}: {len(faults)} labels are wrong", "Correct the files, or the names in the data YAML.")


def _label_faults(path: Path, n_classes: int) -> Iterator[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        yield "not a text file"
        return
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields:
            continue
        try:
            values = [float(field) for field in fields]
        except ValueError:
            yield f"line {number}: '{line[:60]}' is not numbers"
            continue
        if len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
            yield f"line {number}: {len(values)} values, not 'class x y width height'"
        elif not values[0].is_integer() or not 0 <= values[0] < n_classes:
            yield f"line {number}: class {fields[0]}, but the data YAML names {n_classes} (0 to {n_classes - 1})"
        elif any(not -0.01 <= value <= 1.01 for value in values[1:]):
            yield f"line {number}: '{line[:60]}' is not in fractions of the image (0 to 1)"


def _check_caches(images: list[Path]) -> None:
    """Raises where a cache of labels that lies beside a data set would execute something: the host unpickles it."""
    for folder in {Path(label).parent for label in img2label_paths([str(path) for path in images])}:
        path = folder.with_suffix(".cache")
        if not path.is_file():
            continue
        try:
            with path.open("rb") as file:  # anything else than an array of objects would be unpickled as it is
                header = {1: read_array_header_1_0, 2: read_array_header_2_0}[read_magic(file)[0]]
                header(file)
                strange = decode(file.read()).names - _CACHE_NAMES
        except (LookupError, ValueError) as error:
            raise DataError(f"{path} is no cache of labels ({error}). Delete it: it is written anew.") from error
        if strange:
            raise DataError(
                f"{path} wants to run or build '{min(strange)[:80]}', which no cache of labels does. Nothing of it was "
                "executed. Delete it: it is written anew."
            )


def raise_if(faults: list[str], summary: str, remedy: str) -> None:
    """Raises a `DataError` with the first few faults, where there are any."""
    if faults:
        more = [f"... and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
        raise DataError("\n  ".join([f"{summary}. {remedy}", *faults[:SHOWN], *more]))
