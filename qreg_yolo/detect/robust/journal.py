"""What has been measured so far, in small files that are whole or not there: the memory of a run that was killed."""

from __future__ import annotations

import io
import shutil
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qreg_yolo import files
from qreg_yolo.detect.robust.models import Detections
from qreg_yolo.detect.robust.views import Cell

FLUSH_SECONDS = 30.0
"""At most so much work is lost by a kill."""
_BATCHES = "/batches"
_DETECTIONS = "/detections"


class Journal:
    """Detections by run, cell and batch, until they are merged.

    Args:
        folder: Where its files lie; made where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._waiting: dict[tuple[str, Cell], list[tuple[int, Detections]]] = {}
        self._flushed = time.monotonic()
        self._chunks = sorted(folder.glob("*.npz"))

    def done(self) -> set[tuple[str, Cell, int]]:
        """Returns the (run, cell, batch) that its files hold.

        Raises:
            ValueError: A damaged file.
        """
        found = set()
        for path in self._chunks:
            with _opened(path) as chunk:
                for member in chunk.files:
                    if member.endswith(_BATCHES):
                        run_id, name, severity, _ = member.split("/")
                        found |= {(run_id, (name, int(severity)), int(batch)) for batch in chunk[member]}
        return found

    def add(self, run_id: str, cell: Cell, batch: int, detections: Detections) -> None:
        """Takes the detections of one batch, and writes what has gathered when it is time."""
        self._waiting.setdefault((run_id, cell), []).append((batch, detections))
        if time.monotonic() - self._flushed >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes what has gathered.

        Raises:
            OSError: It cannot be written; what was written earlier stays.
        """
        if self._waiting:
            arrays: dict[str, NDArray[Any]] = {}
            for (run_id, (name, severity)), entries in self._waiting.items():
                stem = f"{run_id}/{name}/{severity}"
                arrays[stem + _BATCHES] = np.array([batch for batch, _ in entries], np.int32)
                arrays[stem + _DETECTIONS] = np.concatenate([found for _, found in entries])
            data = io.BytesIO()
            np.savez(data, allow_pickle=False, **arrays)
            last = int(self._chunks[-1].stem) if self._chunks else 0
            path = self.folder / f"{last + 1:08d}.npz"
            files.write_bytes(path, data.getvalue())
            self._chunks.append(path)
            self._waiting.clear()
        self._flushed = time.monotonic()

    def detections(self, run_id: str, cell: Cell) -> Detections:
        """Returns all detections of a cell, by image: the same in whatever order they were measured."""
        member = f"{run_id}/{cell[0]}/{cell[1]}{_DETECTIONS}"
        found = np.concatenate([part for path in self._chunks for part in _member(path, member)])
        return found[np.argsort(found["image"], kind="stable")]

    def remove(self) -> None:
        """Deletes its files and folder."""
        self._chunks = []
        shutil.rmtree(self.folder)  # with what a kill may have left half-written


def _member(path: Path, member: str) -> Iterator[Detections]:
    with _opened(path) as chunk:
        if member in chunk.files:
            yield chunk[member]


def _opened(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged ({error}). Delete it: its part is measured again.") from error
