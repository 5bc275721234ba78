"""The settings, models and files that a folder of measurements was begun with: the same in every later call.

``robustness.json`` holds the settings and models, ``data.json`` the size, time and SHA-256 of each image and label
file (of detectors; a classifier's images are one array, whose SHA-256 is among the settings).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from qreg_yolo.datasets.sources import SourceImage
from qreg_yolo.errors import DataError, check_same_settings
from qreg_yolo.io import files
from qreg_yolo.io.strict_yaml import ConfigError

FILE = "robustness.json"
FINGERPRINT_FILE = "data.json"
Fingerprint = dict[str, dict[str, Any]]
"""Image (its place in the split) -> ``image`` and ``label`` -> [bytes, mtime in ns, SHA-256], or None: no such file."""


def agree(
    folder: Path,
    settings: Mapping[str, Any],
    models: Mapping[str, Mapping[str, Any]],
    contents: Callable[[], Mapping[str, Any]],
) -> None:
    """Writes the settings of a folder, to which a later call may only add.

    Args:
        folder: The output folder.
        settings: Settings that decide the numbers; None: not known to this call (no frost without the corruption
            frost).
        models: Run id -> settings of one model.
        contents: Called once the settings agree; returns SHA-256s of what is measured, by name, and their number. None:
            this call does not use it.

    Raises:
        ConfigError: A setting or a content has another value there, or the file is damaged.
    """
    path = folder / FILE
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"models": {}}
        known = dict(stored["models"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is damaged ({error}). Give another folder with --out.") from error
    before, now = {}, {}
    for run_id, model in models.items():
        for name, value in model.items() if run_id in known else ():
            before[f"{name} of {run_id}"], now[f"{name} of {run_id}"] = known[run_id].get(name), value
    for name, value in settings.items():
        if None not in (value, stored.get(name)) or (name == "limit" and name in stored):
            before[name], now[name] = stored.get(name), value
    remedy = "Give another folder with --out, or the same settings."
    check_same_settings(folder, before, now, remedy, ConfigError)
    found = contents()
    for name, value in found.items():
        if value is not None and stored.get(name, value) not in (None, value):
            raise ConfigError(
                f"The images or labels ({name}) have changed since {folder} was begun. Undo that, or give another "
                "folder with --out."
            )
    new = {name: stored.get(name) if value is None else value for name, value in {**settings, **found}.items()}
    files.write_text(path, json.dumps({**new, "models": {**known, **models}}, indent=2) + "\n")


def fingerprint(images: Iterable[SourceImage], known: Mapping[str, Any] | None = None) -> Fingerprint:
    """Returns the present state of the files; only those whose size or time differs from ``known`` are read."""
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


def check_unchanged(folder: Path, images: Iterable[SourceImage]) -> Fingerprint:
    """Returns the fingerprint of the images after comparing it with the one in the folder; the first call writes it.

    Raises:
        DataError: An image or label file appeared, disappeared or has another content; it is named. Or ``data.json`` is
            damaged.
    """
    remedy = f"Undo that, or measure into another folder than {folder}."
    paths, known = {image.place: image for image in images}, _read(folder / FINGERPRINT_FILE)
    found = fingerprint(paths.values(), known)
    if known is not None:
        if gone := [place for place in known if place not in paths]:
            raise DataError(f"The image '{gone[0]}' was measured and is not there now ({len(gone)} in all). {remedy}")
        for place, kinds in found.items():
            if place not in known:
                raise DataError(f"{paths[place].path} was not there when the measurement began. {remedy}")
            for kind, entry in kinds.items():
                before = known[place][kind]
                if (entry and entry[2]) != (before and before[2]):
                    path = paths[place].path if kind == "image" else paths[place].label
                    event = "appeared" if before is None else "disappeared" if entry is None else "changed"
                    raise DataError(f"{path} has {event} since the measurement began. {remedy}")
    if found != known:  # other times alone: the next check need not read those files
        files.write_text(folder / FINGERPRINT_FILE, json.dumps(found, indent=0) + "\n")
    return found


def _read(path: Path) -> Fingerprint | None:
    try:
        found: Fingerprint | None = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        digest(found or {})
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
