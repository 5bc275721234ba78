"""What a folder of measurements was begun with: the same in every later call, or an error that names the difference."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qreg_yolo.io import files
from qreg_yolo.io.strict_yaml import ConfigError

FILE = "robustness.json"
"""In the output folder, beside the records."""


def merged(
    folder: Path,
    settings: dict[str, Any],
    models: dict[str, dict[str, Any]],
    contents: Mapping[str, str | None] | None = None,
) -> dict[str, Any]:
    """Returns the settings of a folder with those of this call, which may only add to them.

    Args:
        folder: The output folder.
        settings: What decides the numbers; None: not known to this call (no frost without the corruption frost).
        models: Run id -> what decides the numbers of one model.
        contents: What is measured, by name: its SHA-256, None where this call does not look at it.

    Raises:
        ConfigError: A setting or a content has another value there, or the file is damaged.
    """
    path = folder / FILE
    contents = contents or {}
    if not path.is_file():
        return {**settings, **contents, "models": models}
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        before = dict(stored["models"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is damaged ({error}). Give another folder with --out.") from error
    for run_id, model in models.items():
        for name, value in model.items() if run_id in before else ():
            _compare(path, f"{name} of {run_id}", before[run_id].get(name), value)
    for name, value in settings.items():
        if (value is not None and stored.get(name) is not None) or name == "limit":
            _compare(path, name, stored.get(name), value)
    for name, value in contents.items():
        if value is not None and stored.get(name, value) not in (None, value):
            raise ConfigError(
                f"The images or labels ({name}) have changed since {folder} was begun. Undo that, or give another "
                "folder with --out."
            )
    mine = {**settings, **contents}
    kept = {name: stored.get(name) if value is None else value for name, value in mine.items()}
    return {**kept, "models": {**before, **models}}


def write(folder: Path, settings: dict[str, Any]) -> None:
    """Writes the settings into the output folder."""
    files.write_text(folder / FILE, json.dumps(settings, indent=2) + "\n")


def _compare(path: Path, name: str, before: object, now: object) -> None:
    if before != now:
        raise ConfigError(
            f"{path.parent} was begun with {name}={before}, this call has {name}={now}. Give another folder with "
            "--out, or the same setting."
        )
