"""Whether images and labels are still what they were when a measurement began."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from qreg_yolo.datasets.sources import SourceImage
from qreg_yolo.errors import DataError
from qreg_yolo.io import files

FILE = "data.json"
"""In the output folder: what every image and label file was."""
Fingerprint = dict[str, dict[str, Any]]
"""Image (its place in the split) -> ``image`` and ``label`` -> [bytes, mtime in ns, SHA-256], or None: no such file."""


def fingerprint(images: Iterable[SourceImage], known: Mapping[str, Any] | None = None) -> Fingerprint:
    """Returns what the files are now; only those whose size or time differs from ``known`` are read."""
    known = known or {}
    return {
        image.place: {
            kind: _entry(path, known.get(image.place, {}).get(kind))
            for kind, path in (("image", image.path), ("label", image.label))
        }
        for image in images
    }


def digest(found: Fingerprint) -> str:
    """Returns one SHA-256 of all names and contents (not of times)."""
    rows = [[place, *(entry and entry[2] for entry in kinds.values())] for place, kinds in sorted(found.items())]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def check_unchanged(images: Iterable[SourceImage], known: Fingerprint, remedy: str) -> Fingerprint:
    """Returns the fingerprint of now, which has the contents of ``known``.

    Raises:
        DataError: An image or label file appeared, disappeared or has another content; it is named.
    """
    images = list(images)
    paths = {image.place: image for image in images}
    if gone := [place for place in known if place not in paths]:
        raise DataError(f"The image '{gone[0]}' was measured and is not there now ({len(gone)} in all). {remedy}")
    found = fingerprint(images, known)
    for place, kinds in found.items():
        if place not in known:
            raise DataError(f"{paths[place].path} was not there when the measurement began. {remedy}")
        for kind, entry in kinds.items():
            before = known[place][kind]
            if (entry and entry[2]) != (before and before[2]):
                path = paths[place].path if kind == "image" else paths[place].label
                what = "appeared" if before is None else "disappeared" if entry is None else "changed"
                raise DataError(f"{path} has {what} since the measurement began. {remedy}")
    return found


def write(folder: Path, found: Fingerprint) -> None:
    """Writes a fingerprint into the output folder."""
    files.write_text(folder / FILE, json.dumps(found, indent=0) + "\n")


def read(folder: Path) -> Fingerprint | None:
    """Returns the fingerprint in an output folder, None where there is none.

    Raises:
        DataError: It is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        found: Fingerprint = json.loads(path.read_text(encoding="utf-8"))
        digest(found)
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        raise DataError(f"{path} is damaged ({error}). Measure into another folder.") from error
    return found


def _entry(path: Path, known: Any) -> list[Any] | None:
    try:
        state = path.stat()
        if known is not None and known[:2] == [state.st_size, state.st_mtime_ns]:
            return list(known)
        return [state.st_size, state.st_mtime_ns, files.sha256(path)]
    except FileNotFoundError:
        return None
