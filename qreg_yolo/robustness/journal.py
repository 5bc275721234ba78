"""What has been measured so far, in small files that are whole or not there: the memory of a run that was killed."""

from __future__ import annotations

import io
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qreg_yolo.errors import FileAccessError, InvalidValueError
from qreg_yolo.io import files
from qreg_yolo.metrics.conditions import Condition

FLUSH_SECONDS = 30.0
"""At most so much work is lost by a kill."""
_BATCHES = "/batches"
_ROWS = "/rows"
Rows = NDArray[Any]
"""A structured array; its field ``image`` is the number of the image that a row is about."""


class Journal:
    """What models gave on images, by run, cell and batch, until it is merged.

    Args:
        folder: Where its files lie; made where it is missing.

    Raises:
        ValueError: A damaged file there.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._waiting: dict[tuple[str, Condition], list[tuple[int, Rows]]] = {}
        self._flushed = time.monotonic()
        self._chunks = {path: _members(path) for path in sorted(folder.glob("*.npz"))}
        """File -> the arrays in it."""

    def done(self) -> set[tuple[str, Condition, int]]:
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

    def add(self, run_id: str, cell: Condition, batch: int, rows: Rows) -> None:
        """Takes the rows of one batch, and writes what has gathered when it is time."""
        self._waiting.setdefault((run_id, cell), []).append((batch, rows))
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
                arrays[stem + _ROWS] = np.concatenate([found for _, found in entries])
            data = io.BytesIO()
            np.savez(data, allow_pickle=False, **arrays)
            last = int(max(self._chunks).stem) if self._chunks else 0
            path = self.folder / f"{last + 1:08d}.npz"
            files.write_bytes(path, data.getvalue())
            self._chunks[path] = frozenset(arrays)
            self._waiting.clear()
        self._flushed = time.monotonic()

    def rows(self, run_id: str, cell: Condition) -> Rows:
        """Returns all that was written of a cell, by image: the same in whatever order it was measured."""
        member = f"{run_id}/{cell[0]}/{cell[1]}{_ROWS}"
        parts = []
        for path, members in self._chunks.items():
            if member in members:
                with _opened(path) as chunk:
                    parts.append(chunk[member])
        found = np.concatenate(parts)
        return found[np.argsort(found["image"], kind="stable")]

    def remove(self) -> None:
        """Deletes its files and folder."""
        self._chunks = {}
        shutil.rmtree(self.folder)  # with what a kill may have left half-written

    @contextmanager
    def keeping(self, out: Path, warn: Callable[[str], object]) -> Iterator[None]:
        """Writes what has gathered at the end of the block, in whatever way it ends, and says how to go on.

        Args:
            out: The output folder, for the texts.
            warn: Takes what to say after Ctrl-C or SIGTERM.

        Raises:
            OSError: Something cannot be written.
        """
        try:
            yield
            self.flush()
        except OSError as error:
            raise FileAccessError(
                f"'{out}' cannot be written: {error.strerror or error}. What was written is kept: free space, then "
                "start the same command again."
            ) from error
        except BaseException as error:
            self.flush()
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                warn("Interrupted. What was measured is kept: start the same command again to go on.")
            raise


def _members(path: Path) -> frozenset[str]:
    with _opened(path) as chunk:
        return frozenset(chunk.files)


def _opened(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidValueError(f"{path} is damaged ({error}). Delete it: its part is measured again.") from error
