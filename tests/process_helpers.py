"""Fixtures made once for all test processes, and programs in forked processes that have torch imported already."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

import pytest
from filelock import FileLock

T = TypeVar("T")

TIMEOUT = 300
"""Seconds after which a forked process ends, by SIGALRM."""
_FORKS = multiprocessing.get_context("forkserver")


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], T]) -> T:
    """Returns what `make` returns for an empty folder; one process of the session makes it, the others read it."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder, result = root / "shared" / name, root / "shared" / f"{name}.pickle"
    folder.parent.mkdir(exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not result.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a process in which it failed
            folder.mkdir()
            result.write_bytes(pickle.dumps(make(folder)))
        return pickle.loads(result.read_bytes())  # type: ignore[no-any-return]


_preloaded: list[str] = []


def preload(*modules: str) -> None:
    """Adds modules that forked processes have imported; call it before the first of them."""
    _preloaded.extend(modules)
    _FORKS.set_forkserver_preload(_preloaded)


def run_forked(
    program: str, *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs Python code as ``python -c`` does, without importing the preloaded modules anew.

    The interpreter's own end (atexit, threads that outlive it) is skipped: where that matters, start a process.
    """
    words = [str(argument) for argument in arguments]
    streams = [_FORKS.Pipe(duplex=False) for _ in ("stdout", "stderr")]
    writers = [writer for _, writer in streams]
    process = _FORKS.Process(
        target=_run, args=(program, words, writers, cwd or Path.cwd(), {**os.environ, **(env or {})})
    )
    process.start()
    for writer in writers:
        writer.close()  # so that the child's end is the end of what it prints
    with ThreadPoolExecutor(2) as pool:
        printed = list(pool.map(_everything, [reader for reader, _ in streams]))
    process.join()
    assert process.exitcode is not None
    return subprocess.CompletedProcess(words, process.exitcode, *printed)


def _everything(reader: Connection) -> str:
    with reader, open(reader.fileno(), encoding="utf-8", closefd=False) as file:
        return file.read()


def _run(program: str, arguments: list[str], writers: list[Connection], cwd: Path, env: dict[str, str]) -> None:
    for descriptor, writer in enumerate(writers, 1):
        os.dup2(writer.fileno(), descriptor)
        writer.close()
    signal.alarm(TIMEOUT)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = ["-c", *arguments]
    exec(program, {"__name__": "__main__"})
