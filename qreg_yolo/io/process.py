"""A process: its CPU threads, its orderly end after SIGTERM, and its end with its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from qreg_yolo.io.strict_yaml import ConfigError

THREADS_VARIABLE = "QREG_YOLO_THREADS"
"""Environment variable with the number of CPU threads; unset: all cores. Child processes inherit it."""


def requested_threads() -> int:
    """Returns the CPU threads to use: `THREADS_VARIABLE`, else every core this process may run on."""
    text = os.environ.get(THREADS_VARIABLE, "")
    if text:
        if not text.isdecimal() or int(text) < 1:
            raise ConfigError(f"{THREADS_VARIABLE}={text!r} is not a whole number of at least 1.")
        return int(text)
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def use_threads(threads: int | None) -> None:
    """Sets the CPU threads of this process and its children; None keeps the default, all cores.

    Raises:
        ConfigError: `THREADS_VARIABLE` is not a number.
    """
    if threads is not None:
        os.environ[THREADS_VARIABLE] = str(threads)
    requested_threads()


TERMINATED = 143
"""Exit status after SIGTERM, as shells count: 128 + 15."""
_SET_PARENT_DEATH_SIGNAL = 1
"""``PR_SET_PDEATHSIG`` of Linux's prctl."""


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


def die_with_parent(parent: int) -> Callable[[], None]:
    """Returns what a new process calls so that the system ends it with SIGTERM when its parent dies (Linux)."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def call() -> None:
        prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died in between
            os._exit(1)

    return call
