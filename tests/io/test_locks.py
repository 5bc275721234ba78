"""One process writes into a folder; a process that is gone hinders nobody."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qreg_yolo.io.locks import FolderInUseError, FolderLock, refuse_if_locked
from tests import ROOT

HOLDER = """
import sys, time
from pathlib import Path
from qreg_yolo.io.locks import FolderLock
with FolderLock().take(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(120)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Yields another process that writes into `tmp_path`."""
    arguments = [sys.executable, "-c", HOLDER, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_with_the_number_of_the_first(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    words = rf"Another process \({holder.pid}\) is writing into '{tmp_path}'\. Wait for its end.*name=.*--out"
    for _ in range(2):  # a refusal leaves the number
        with pytest.raises(FolderInUseError, match=words):
            FolderLock().take(tmp_path)
        with pytest.raises(FolderInUseError, match=words):
            refuse_if_locked(tmp_path)
    assert os.listdir(tmp_path) == [".lock"]


def test_the_lock_of_a_killed_process_is_taken_over(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    holder.kill()
    holder.wait()
    assert (tmp_path / ".lock").read_text() == f"{holder.pid}\n"
    refuse_if_locked(tmp_path)
    with FolderLock().take(tmp_path):
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"
    assert os.listdir(tmp_path) == []


def test_one_process_locks_a_folder_once(tmp_path: Path) -> None:
    with FolderLock().take(tmp_path), pytest.raises(FolderInUseError):
        FolderLock().take(tmp_path)
    assert os.listdir(tmp_path) == []
    refuse_if_locked(tmp_path / "missing")


def test_a_copy_for_a_child_process_is_not_locked(tmp_path: Path) -> None:
    with FolderLock().take(tmp_path) as lock:
        child: FolderLock = pickle.loads(pickle.dumps(lock))
        child.release()
        with pytest.raises(FolderInUseError):
            child.take(tmp_path)
    with child.take(tmp_path):
        pass
