"""What protects a run from outside: one process per folder, and an orderly end when it is told to stop."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, ModuleType
from typing import IO, Any

from qreg_yolo.errors import UserError

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # not on Windows: runs are not locked there
    fcntl = None

LOCK = ".lock"
"""The file in a run's folder that is locked while a process writes into it."""
TERMINATED = 143
"""Exit status after SIGTERM, as shells count: 128 + 15."""


class FolderInUseError(UserError, OSError):
    """A run's folder that another process is writing into."""


class FolderLock:
    """Takes a run's folder for this process, until it ends in whatever way."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None

    def take(self, folder: Path) -> None:
        """Takes ``folder``.

        Raises:
            FolderInUseError: Another process is writing into it.
        """
        self._file = _lock_file(folder)

    def release(self) -> None:
        """Gives the folder back."""
        if self._file is not None:
            Path(self._file.name).unlink(missing_ok=True)
            self._file.close()
            self._file = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_file": None}  # a child process takes the lock itself


def refuse_if_running(folder: Path) -> None:
    """Raises where another process is writing into ``folder``, before anything there is touched.

    Raises:
        FolderInUseError: It is.
    """
    if (folder / LOCK).exists():
        file = _lock_file(folder)
        if file is not None:
            file.close()


def _lock_file(folder: Path) -> IO[bytes] | None:
    if fcntl is None:
        return None
    file = (folder / LOCK).open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise FolderInUseError(
            f"Another process is writing into '{folder}'. Wait for its end, stop it, or give another folder: name=, or "
            "--out where the command has it."
        ) from None
    return file


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Turns SIGTERM into ``SystemExit(143)`` inside the block, so that files are closed and the end is reported.

    The checkpoint of the last finished epoch is on disk by then; what follows it is trained again after a resume.
    A process that handles the signal itself, and threads other than the main one, are left alone.
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
