"""The settings of a folder of corrupted images, and the hashes of its files, a line per source image.

``manifest.json`` is written before the first image, ``files.jsonl`` grows by a line whenever all files of an image are
in their place. A run that was killed is resumed from there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from qreg_yolo.errors import DataError, check_same_settings
from qreg_yolo.io import files
from qreg_yolo.io.locks import LOCK, refuse_if_locked

MANIFEST, FILES, SCRATCH = "manifest.json", "files.jsonl", ".partial"
LAYOUT = 1
"""Version of the layout."""


@dataclass(frozen=True)
class Entry:
    """The files that one image became."""

    image: str
    """`SourceImage.place`."""
    source_sha256: str
    """Hash of the source's file; empty where it could not be read."""
    files: Mapping[str, str] = field(default_factory=dict)
    """File, relative to the folder -> its SHA-256."""
    fault: str | None = None
    """Why it was left out; None if it was not."""

    def is_intact(self, out: Path, name: str) -> bool:
        """Returns whether a file is in the folder with the recorded hash."""
        try:
            return name in self.files and files.sha256(out / name) == self.files[name]
        except OSError:
            return False


def check_settings(out: Path, settings: Mapping[str, Any]) -> None:
    """Raises unless ``out`` is absent, empty, or was written with these settings.

    Raises:
        DataError: Otherwise; each setting that differs is named.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise DataError(f"'{out}' is a file. Give a folder.")
    if not (out / MANIFEST).is_file():
        foreign = sorted(os.listdir(out))
        foreign = [name for name in foreign if name not in (SCRATCH, LOCK) and not name.startswith(f".{MANIFEST}.")]
        if foreign:
            raise DataError(f"'{out}' holds '{foreign[0]}', but no sets of this command. Give a new folder.")
        return
    try:
        found = dict(json.loads((out / MANIFEST).read_text(encoding="utf-8"))["settings"])
    except (ValueError, KeyError, TypeError):
        raise DataError(f"'{out / MANIFEST}' is not a manifest of this command. Give a new folder.") from None
    check_same_settings(out, found, settings, "Give another folder, or the same settings.", DataError)


def write_settings(out: Path, settings: Mapping[str, Any], provenance: Mapping[str, str]) -> None:
    """Writes ``manifest.json`` unless it exists."""
    if not (out / MANIFEST).exists():
        text = json.dumps({"settings": settings, "provenance": provenance}, indent=2)
        files.write_text(out / MANIFEST, text + "\n")


def read_entries(out: Path) -> dict[str, Entry]:
    """Returns the entries by image, in their order; the last one of an image counts, a torn last line does not."""
    path, entries = out / FILES, dict[str, Entry]()
    if not path.is_file():
        return entries
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            entry = Entry(**json.loads(line))
        except (ValueError, TypeError):
            raise DataError(f"'{path}', line {number} is not as this command writes it. Delete that line.") from None
        entries[entry.image] = entry
    return entries


def write_entries(out: Path, entries: Mapping[str, Entry]) -> None:
    """Replaces ``files.jsonl`` if its content differs."""
    data = b"".join(_line(entry) for entry in entries.values())
    if not (out / FILES).is_file() or (out / FILES).read_bytes() != data:
        files.write_bytes(out / FILES, data)


def append_entry(journal: BinaryIO, entry: Entry) -> None:
    """Adds a line to the open ``files.jsonl``, and leaves no half line if the disk is full."""
    end = journal.seek(0, os.SEEK_END)
    try:
        journal.write(_line(entry))
    except OSError:
        journal.truncate(end)
        raise


def check_free(out: Path) -> None:
    """Raises where the folder cannot be written, or another process writes into it: before any work is done.

    Raises:
        DataError: It cannot be written.
        FolderInUseError: Another process is writing into it.
    """
    home = next(place for place in (out.absolute(), *out.absolute().parents) if place.exists())
    if not home.is_dir():
        raise DataError(f"'{out}' cannot be written: '{home}' is a file. Give another folder.")
    if not os.access(home, os.W_OK | os.X_OK):
        raise DataError(f"'{out}' cannot be written: '{home}' is read-only. Give another folder.")
    refuse_if_locked(out)


def check_unchanged(out: Path, settings: Mapping[str, Any], known: Mapping[str, Entry]) -> None:
    """Raises if another process changed the folder between the first look and the lock.

    Raises:
        DataError: Another process has written into it.
    """
    check_settings(out, settings)
    if read_entries(out) != known:
        raise DataError(f"Another process has written into '{out}'. Start the same command again.")


def _line(entry: Entry) -> bytes:
    content = {"image": entry.image, "source_sha256": entry.source_sha256, "files": dict(entry.files)}
    if entry.fault is not None:
        content["fault"] = entry.fault
    return json.dumps(content).encode() + b"\n"
