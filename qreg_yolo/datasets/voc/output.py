"""The output folder of a VOC conversion: written whole or not at all, checked if it exists.

It is built in a scratch folder next to its destination and moved there in one step. It has Ultralytics' layout::

    voc.yaml  manifest.json  images/<split>/*.jpg  labels/<split>/*.txt

and ``problems.txt`` if something was left out.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qreg_yolo.datasets.voc.devkit import Split
from qreg_yolo.errors import DataError, check_same_settings
from qreg_yolo.io import files, strict_yaml
from qreg_yolo.terminal import Progress, no_progress

YAML, MANIFEST, PROBLEMS = "voc.yaml", "manifest.json", "problems.txt"
VERSION = 1
"""Version of the layout; another version needs another folder."""
_DEAD_AFTER_S = 3600
"""Age of a scratch folder that no run can be writing to: it takes seconds."""


@dataclass(frozen=True)
class Output:
    """The content of the folder."""

    splits: tuple[Split, ...]
    description: dict[str, Any]
    """Content of the data YAML."""
    settings: dict[str, Any]
    """The devkit and the options of the conversion."""
    problems: str
    """Text of `PROBLEMS`; empty if nothing was left out."""


def find_output(out: Path, settings: Mapping[str, Any]) -> bool:
    """Returns whether ``out`` is a finished conversion with these settings; False if it can be written.

    Raises:
        DataError: It holds something else, or a conversion with other settings.
    """
    if not out.exists():
        return False
    if not out.is_dir():
        raise DataError(f"--out '{out}' is a file. Give a folder.")
    if not (out / MANIFEST).is_file():
        if out == Path.cwd() or out.is_mount():  # it would be replaced
            raise DataError(f"--out '{out}' is the current folder or a mounted one. Give a folder inside it.")
        foreign = sorted(name for name in os.listdir(out) if PROBLEMS not in name)
        if foreign:
            raise DataError(f"--out '{out}' holds '{foreign[0]}', but no finished conversion. Give a new folder.")
        return False
    try:
        found = json.loads((out / MANIFEST).read_text(encoding="utf-8"))["settings"]
        before = {key: found.get(key) for key in settings}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"'{out / MANIFEST}' is not a manifest of this command. Give a new folder as --out.") from None
    remedy = "Give another --out, or delete that folder and run the command again."
    check_same_settings(out, before, settings, remedy, DataError)
    return True


def find_differences(out: Path, output: Output) -> list[str]:
    """Returns the files of ``out``, relative, that differ from those to be written; linked images are not read.

    An image or label file that does not belong to the conversion counts; other files (caches) do not.
    """
    expected = {YAML: strict_yaml.dumps(output.description)}
    for split in output.splits:
        expected |= {f"labels/{split.name}/{stem}.txt": text for stem, text in split.labels.items()}
    different = [name for name, text in expected.items() if _text(out / name) != text]
    for split in output.splits:
        different += [
            f"images/{split.name}/{stem}.jpg"
            for stem in split.labels
            if not files.same_file(out / "images" / split.name / f"{stem}.jpg", split.images / f"{stem}.jpg")
        ]
    for kind, suffix in (("images", ".jpg"), ("labels", ".txt")):
        for split in output.splits:
            found = (path for path in (out / kind / split.name).glob(f"*{suffix}") if path.stem not in split.labels)
            different += [f"{kind}/{split.name}/{path.name}" for path in found]
    return different


def write_output(out: Path, output: Output, progress: Progress = no_progress) -> Counter[str]:
    """Writes the folder; returns "symbolic link", "hard link" or "copy" -> number of images placed that way.

    Raises:
        DataError: Another run has written the folder.
        OSError: The place cannot be written, or the disk is full; nothing is left behind then.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(out)
    scratch = Path(tempfile.mkdtemp(prefix=_prefix(out), dir=out.parent))
    try:
        built = scratch / out.name
        placed = _build(built, output, progress)
        if (out / MANIFEST).exists():
            raise DataError(f"Another run has written '{out}'. Run the command again to check it.")
        if out.exists():
            for path in out.glob(f"*{PROBLEMS}*"):  # of a run that found problems; there is nothing else
                path.unlink()
            out.rmdir()
        built.rename(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return placed


def _prefix(out: Path) -> str:
    return f".{out.name}.partial-"


def _remove_leftovers(out: Path) -> None:
    """Removes the scratch folders of runs that were killed."""
    for folder in out.parent.glob(f"{_prefix(out)}*"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > _DEAD_AFTER_S:
                shutil.rmtree(folder)


def _build(folder: Path, output: Output, progress: Progress) -> Counter[str]:
    """Writes everything into ``folder``, the manifest last, and has it on the disk before it returns."""
    placed: Counter[str] = Counter()
    with progress("Writing", sum(len(split.labels) for split in output.splits)) as advance:
        for split in output.splits:
            images, labels = folder / "images" / split.name, folder / "labels" / split.name
            images.mkdir(parents=True)
            labels.mkdir(parents=True)
            for stem, text in split.labels.items():
                placed[files.link_or_copy(split.images / f"{stem}.jpg", images / f"{stem}.jpg")] += 1
                (labels / f"{stem}.txt").write_bytes(text.encode())
                advance(1)
    files.write_text(folder / YAML, strict_yaml.dumps(output.description))
    if output.problems:
        files.write_text(folder / PROBLEMS, output.problems)
    counts = {
        split.name: {"images": len(split.labels), "objects": split.n_objects, "difficult_left_out": split.n_difficult}
        for split in output.splits
    }
    manifest = {"settings": output.settings, "splits": counts, "images_placed_as": dict(placed)}
    if hasattr(os, "sync"):
        os.sync()  # once: a sync per label file would take minutes
    files.write_text(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    return placed


def _text(path: Path) -> str | None:
    try:
        return path.read_bytes().decode()
    except (OSError, UnicodeDecodeError):
        return None
