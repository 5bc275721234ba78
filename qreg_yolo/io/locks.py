"""Protection of a folder that is written into: one process at a time."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from qreg_yolo.errors import UserError

LOCK = ".lock"
"""The file in a folder that is locked while a process writes into it; it holds the process's number."""


class FolderInUseError(UserError, OSError):
    """A folder that another process is writing into."""


class FolderLock:
    """Keeps other processes from writing into a folder, until its ``with`` block or its process ends.

    The system releases the lock of a process that is killed: the file that it leaves behind hinders nobody.
    """

    def __init__(self) -> None:
        self._lock: FileLock | None = None

    def take(self, folder: Path) -> FolderLock:
        """Locks ``folder`` and returns itself.

        Raises:
            FolderInUseError: Another process is writing into it.
            OSError: It cannot be written.
        """
        path = folder / LOCK
        lock, number = FileLock(path, fallback_to_soft=False), ""
        try:
            lock.acquire(blocking=False)
        except Timeout:
            with suppress(OSError):  # Windows lets nobody else read a locked file
                number = path.read_text(errors="replace").strip()
            raise FolderInUseError(
                f"Another process ({number or 'unknown'}) is writing into '{folder}'. Wait for its end, stop it, or "
                "give another folder: name=, or --out where the command has it."
            ) from None
        self._lock = lock
        with suppress(OSError):
            path.write_text(f"{os.getpid()}\n")
        return self

    def release(self) -> None:
        """Unlocks the folder and removes the lock's file."""
        if self._lock is not None:
            with suppress(OSError):  # Windows removes it on release
                os.unlink(self._lock.lock_file)
            self._lock.release()
            self._lock = None

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __getstate__(self) -> dict[str, Any]:
        return {"_lock": None}  # a child process takes the lock itself


def refuse_if_locked(folder: Path) -> None:
    """Raises where another process is writing into ``folder``, before anything there is changed.

    Raises:
        FolderInUseError: Another process is writing into it.
    """
    if (folder / LOCK).exists():
        with FolderLock().take(folder):
            pass
