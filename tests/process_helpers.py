"""Fixtures made once for all test processes, and programs in forked processes that have torch imported already."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import pytest
from filelock import FileLock

T = TypeVar("T")

TIMEOUT = 300
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


def preload(*modules: str) -> None:
    """Sets the modules that forked processes have imported; call it before the first of them."""
    _FORKS.set_forkserver_preload(list(modules))


def run_forked(
    program: str, *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs Python code as ``python -c`` does, without importing the preloaded modules anew.

    The interpreter's own end (atexit, threads that outlive it) is skipped: where that matters, start a process.
    """
    words = [str(argument) for argument in arguments]
    with tempfile.TemporaryDirectory() as name:
        out, err = Path(name) / "out", Path(name) / "err"
        process = _FORKS.Process(
            target=_run, args=(program, words, out, err, cwd or Path.cwd(), {**os.environ, **(env or {})})
        )
        process.start()
        process.join(TIMEOUT)
        if process.is_alive():
            process.kill()
            process.join()
            raise TimeoutError(f"{words} took more than {TIMEOUT} s:\n{out.read_text()}\n{err.read_text()}")
        code = process.exitcode
        assert code is not None
        return subprocess.CompletedProcess(words, code, out.read_text(), err.read_text())


def _run(program: str, arguments: list[str], out: Path, err: Path, cwd: Path, env: dict[str, str]) -> None:
    for path, descriptor in ((out, 1), (err, 2)):
        with path.open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = ["-c", *arguments]
    exec(program, {"__name__": "__main__"})
