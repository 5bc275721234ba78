"""The local engine: processes, their environment, logs, and their end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qreg_yolo.study.engines import Ended, LocalEngine, Task

SCRIPT = """
import os, signal, sys, time
what = sys.argv[1]
if what == "say":
    print(os.environ["QREG_YOLO_THREADS"], os.environ.get("CUDA_VISIBLE_DEVICES", "-"))
elif what == "fail":
    sys.exit("it is broken")
elif what == "sleep":
    print("asleep", flush=True); time.sleep(60)
elif what == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN); print("asleep", flush=True); time.sleep(60)
"""


def engine(**options: object) -> LocalEngine:
    return LocalEngine(program=(sys.executable, "-c", SCRIPT), **options)  # type: ignore[arg-type]


def task(folder: Path, name: str, what: str, *, wide: bool = False) -> Task:
    return Task(name, lambda: [what], folder / f"{name}.log", wide)


def ends(local: LocalEngine, count: int) -> dict[str, Ended]:
    found: list[Ended] = []
    end = time.monotonic() + 30
    while len(found) < count and time.monotonic() < end:
        found += local.wait(0.5)
    return {one.name: one for one in found}


def until_asleep(log: Path) -> None:
    end = time.monotonic() + 30
    while "asleep" not in (log.read_text() if log.exists() else ""):
        assert time.monotonic() < end
        time.sleep(0.05)


def lives(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_exit_statuses_and_logs(tmp_path: Path) -> None:
    local = engine(slots=2, threads=3)
    assert local.submit(task(tmp_path, "a", "say")) == "started"
    assert local.submit(task(tmp_path, "b", "fail")) == "started"
    over = ends(local, 2)
    assert (over["a"].code, over["b"].code) == (0, 1)
    assert (tmp_path / "a.log").read_text() == "$ qreg-yolo say\n3 -\n"
    assert "it is broken" in (tmp_path / "b.log").read_text()


def test_threads_and_gpus_are_shared_out(tmp_path: Path) -> None:
    local = engine(slots=2, threads=1, gpus=["0", "1"])
    local.submit(task(tmp_path, "a", "say"))
    local.submit(task(tmp_path, "b", "say"))
    ends(local, 2)
    said = sorted((tmp_path / f"{name}.log").read_text().splitlines()[1] for name in "ab")
    assert said == ["1 0", "1 1"]
    local.submit(task(tmp_path, "c", "say", wide=True))
    ends(local, 1)
    assert (tmp_path / "c.log").read_text().splitlines()[1] == "2 0"


def test_nothing_left_starts_nothing(tmp_path: Path) -> None:
    assert engine().submit(Task("a", lambda: None, tmp_path / "a.log")) == "done"
    assert (tmp_path / "a.log").read_text() == ""


def test_cancel_ends_in_order_and_then_by_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qreg_yolo.study.engines.GRACE_S", 1.0)
    local = engine(slots=2)
    for name, what in (("a", "sleep"), ("b", "stubborn")):
        local.submit(task(tmp_path, name, what))
        until_asleep(tmp_path / f"{name}.log")
    processes = [one.process for one in local._running.values()]
    local.cancel()
    assert [one.returncode for one in processes] == [-signal.SIGTERM, -signal.SIGKILL]
    assert local.wait(0) == []


PARENT = """
import sys, time
from pathlib import Path
from tests.study.test_engines import engine, task, until_asleep
local = engine()
local.submit(task(Path(sys.argv[1]), "a", sys.argv[2]))
until_asleep(Path(sys.argv[1]) / "a.log")
print(next(iter(local._running.values())).process.pid, flush=True)
time.sleep(60)
"""


def killed_parent(folder: Path, what: str) -> int:
    """Returns the number of a process whose parent was killed with -9."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(folder), what], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert lives(child)
        parent.kill()
    return child


@pytest.mark.skipif(sys.platform != "linux", reason="the parent's death is a signal on Linux alone")
def test_a_child_ends_with_its_parent(tmp_path: Path) -> None:
    child = killed_parent(tmp_path, "sleep")
    end = time.monotonic() + 10
    while lives(child) and time.monotonic() < end:
        time.sleep(0.05)
    assert not lives(child)
    assert engine().submit(Task("a", lambda: None, tmp_path / "a.log")) == "done", "the lock went with it"


@pytest.mark.skipif(sys.platform == "win32", reason="no locks of open files")
def test_while_a_child_outlives_its_parent_its_job_does_not_start_again(tmp_path: Path) -> None:
    child = killed_parent(tmp_path, "stubborn")
    try:
        assert lives(child)
        assert engine().submit(task(tmp_path, "a", "say")) == "locked"
    finally:
        os.kill(child, signal.SIGKILL)
    end = time.monotonic() + 10
    while lives(child) and time.monotonic() < end:
        time.sleep(0.05)
    local = engine()
    assert local.submit(task(tmp_path, "a", "say")) == "started"
    assert ends(local, 1)["a"].code == 0
