"""The journal of an unfinished measurement: its predictions, in files that are written atomically."""

from __future__ import annotations

import io
import shutil
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qreg_yolo.errors import InvalidValueError
from qreg_yolo.io import files
from qreg_yolo.metrics.conditions import Condition

FLUSH_SECONDS = 30.0
"""A kill loses at most the work of this time."""
_BATCHES = "/batches"
_ROWS = "/rows"
Task = tuple[Condition, int]
"""One batch of images, by number, under one condition."""
Rows = NDArray[Any]
"""A structured array; its field ``image`` is the number of the image that a row is about."""


class Journal:
    """The predictions of models, by run, condition and batch, until they are records.

    Args:
        folder: Folder of its files; made where it is missing.

    Raises:
        ValueError: A damaged file there.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._waiting: dict[tuple[str, Condition], list[tuple[int, Rows]]] = {}
        self._flushed = time.monotonic()
        self._chunks = {path: _members(path) for path in sorted(folder.glob("*.npz"))}
        """File -> names of its arrays."""

    def done(self) -> set[tuple[str, Task]]:
        """Returns the (run, task) that its files hold.

        Raises:
            ValueError: A damaged file.
        """
        found = set()
        for path in self._chunks:
            with _opened(path) as chunk:
                for member in chunk.files:
                    if member.endswith(_BATCHES):
                        run_id, name, severity, _ = member.split("/")
                        found |= {(run_id, ((name, int(severity)), int(batch))) for batch in chunk[member]}
        return found

    def add(self, run_id: str, task: Task, rows: Rows) -> None:
        """Takes the rows of one batch."""
        condition, batch = task
        self._waiting.setdefault((run_id, condition), []).append((batch, rows))

    def is_due(self) -> bool:
        """Returns whether `FLUSH_SECONDS` have passed since the last flush."""
        return time.monotonic() - self._flushed >= FLUSH_SECONDS

    def flush(self) -> None:
        """Writes the rows that were added since the last flush.

        Raises:
            OSError: They cannot be written; what was written earlier is kept.
        """
        if self._waiting:
            arrays: dict[str, NDArray[Any]] = {}
            for (run_id, (name, severity)), entries in self._waiting.items():
                stem = f"{run_id}/{name}/{severity}"
                arrays[stem + _BATCHES] = np.array([batch for batch, _ in entries], np.int32)
                arrays[stem + _ROWS] = np.concatenate([found for _, found in entries])
            data = io.BytesIO()
            np.savez(data, allow_pickle=False, **arrays)
            last = int(max(self._chunks).stem) if self._chunks else 0
            path = self.folder / f"{last + 1:08d}.npz"
            files.write_bytes(path, data.getvalue())
            self._chunks[path] = frozenset(arrays)
            self._waiting.clear()
        self._flushed = time.monotonic()

    def rows(self, run_id: str, condition: Condition) -> Rows:
        """Returns all that was written of a condition, by image: the same in whatever order it was measured."""
        member = f"{run_id}/{condition[0]}/{condition[1]}{_ROWS}"
        parts = []
        for path, members in self._chunks.items():
            if member in members:
                with _opened(path) as chunk:
                    parts.append(chunk[member])
        found = np.concatenate(parts)
        return found[np.argsort(found["image"], kind="stable")]

    def remove(self) -> None:
        """Deletes its files and folder, with anything that a kill has left half-written."""
        self._chunks = {}
        shutil.rmtree(self.folder)


def _members(path: Path) -> frozenset[str]:
    with _opened(path) as chunk:
        return frozenset(chunk.files)


def _opened(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidValueError(f"{path} is damaged ({error}). Delete it: its part is measured again.") from error
