"""Tasks spread over worker processes, with the results in the order of the tasks."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing.connection import wait
from typing import TypeVar

import cv2

from qreg_yolo.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")


class PoolError(UserError, ValueError):
    """A worker process that was killed."""


MAX_WORKERS = 8
"""Most processes by default: more of them compete for the disk."""


def default_workers() -> int:
    """Returns the number of cores that this process may use, at most `MAX_WORKERS`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MAX_WORKERS)


def run_ordered(
    function: Callable[[Task], Result], tasks: Iterable[Task], workers: int
) -> Generator[Result, None, None]:
    """Yields the result of each task, in order; an exception of a task is raised here.

    Tasks are drawn a few ahead of the results, so that neither fills the memory.

    Args:
        function: A function of a module, which another process can import.
        tasks: Its arguments.
        workers: Processes; 0: this one.
    """
    if workers == 0:
        with _one_opencv_thread():
            yield from map(function, tasks)
        return
    remaining, pending = iter(tasks), deque[Future[Result]]()
    context = multiprocessing.get_context("spawn")  # a fork would copy locks of other threads
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker)
    try:
        with _interrupts_ignored():  # the workers inherit it: Ctrl-C reaches this process alone
            pending.extend(pool.submit(function, task) for task in islice(remaining, 2 * workers))
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(function, task) for task in islice(remaining, 1))
            yield result
    except BrokenProcessPool as error:
        raise PoolError(
            "A worker process was killed, perhaps for lack of memory. Run the same command again with fewer --workers "
            f"than {workers}: it resumes."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process when its parent was killed: it would wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


@contextmanager
def _one_opencv_thread() -> Iterator[None]:
    before = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
