"""Protection of a folder that is written into: one process at a time, and an orderly end after SIGTERM."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock, Timeout

from qreg_yolo.errors import UserError

LOCK = ".lock"
"""The file in a folder that is locked while a process writes into it; it holds the process's number."""
TERMINATED = 143
"""Exit status after SIGTERM, as shells count: 128 + 15."""


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


@contextmanager
def terminable() -> Iterator[None]:
    """Turns SIGTERM into ``SystemExit(143)`` inside the block, so that files are closed and the end is reported.

    The checkpoint of the last finished epoch is on disk by then; a resumed run trains the unfinished epoch again. A
    process that handles the signal itself, and threads other than the main one, are left alone.
    """
    mine = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(TERMINATED)

    if mine:
        signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        if mine:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
