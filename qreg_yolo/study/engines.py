"""Engines run commands: the local one in processes of their own, the in-process one for tests.

A job's log is locked while its process lives, by the open file that the process inherits: also after its parent was
killed. So nobody starts the same job twice.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from filelock import lock_descriptor

from qreg_yolo.io.process import THREADS_VARIABLE, die_with_parent

GRACE_S = 60.0
"""Seconds that a process has to end in order."""
_POLL_S = 0.2


@dataclass(frozen=True)
class Task:
    """A command to run."""

    name: str
    arguments: Callable[[], Sequence[str] | None]
    """Called before the start, while nobody else runs the command; returns the arguments of ``qreg-yolo``, or None if
    nothing is left to do."""
    log: Path
    """Gets its output; its folder exists."""
    wide: bool = False
    """Whether it takes all slots and all threads."""


@dataclass(frozen=True)
class Ended:
    """A command that is over."""

    name: str
    code: int
    """Exit status; negative: the signal that ended it."""
    seconds: float


Submitted = Literal["started", "locked", "done"]


class Engine(Protocol):
    """A way to run commands."""

    @property
    def slots(self) -> int:
        """Commands that may run at a time."""

    def submit(self, task: Task) -> Submitted:
        """Starts a command, unless a process of an earlier call still runs it (locked) or nothing is left (done)."""

    def wait(self, seconds: float) -> list[Ended]:
        """Returns the commands that ended, after some seconds at the latest."""

    def cancel(self) -> None:
        """Ends all commands in order, and returns when they are gone."""


@dataclass
class LocalEngine:
    """Processes of this machine, each with its threads and its GPU."""

    slots: int = 1
    threads: int | None = None
    """CPU threads of each; None: the cores, shared out."""
    gpus: Sequence[str] = ()
    """Numbers or names of GPUs, as in ``CUDA_VISIBLE_DEVICES``; none: the environment decides."""
    program: Sequence[str] = (sys.executable, "-m", "qreg_yolo")
    """The command that gets a task's arguments."""
    _running: dict[str, _Process] = field(default_factory=dict)

    def submit(self, task: Task) -> Submitted:
        with task.log.open("ab") as log:
            if not lock_descriptor(log.fileno(), blocking=False):
                return "locked"
            arguments = task.arguments()
            if arguments is None:
                return "done"
            log.write(_heading(arguments).encode())
            log.flush()
            number = min(set(range(self.slots)) - {one.slot for one in self._running.values()})
            process = subprocess.Popen(
                [*self.program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._environment(number, wide=task.wide)},
                start_new_session=True,  # a terminal's Ctrl-C reaches this process alone, which ends the others
                preexec_fn=die_with_parent(os.getpid()) if sys.platform == "linux" else None,
            )
        self._running[task.name] = _Process(process, number, time.monotonic())
        return "started"

    def _environment(self, slot: int, *, wide: bool) -> dict[str, str]:
        share = self.threads or max((os.cpu_count() or 1) // self.slots, 1)
        threads = str(share * (self.slots if wide else 1))
        found = {THREADS_VARIABLE: threads, "OMP_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
        if self.gpus:
            found["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)]
        return found

    def wait(self, seconds: float) -> list[Ended]:
        end = time.monotonic() + seconds
        while True:
            over = [name for name, one in self._running.items() if one.process.poll() is not None]
            if over or time.monotonic() >= end:
                return [self._running.pop(name).ended(name) for name in over]
            time.sleep(_POLL_S)

    def cancel(self) -> None:
        for one in self._running.values():
            one.process.terminate()
        end = time.monotonic() + GRACE_S
        try:
            for one in self._running.values():
                with suppress(subprocess.TimeoutExpired):
                    one.process.wait(max(end - time.monotonic(), 0))
        finally:  # the grace is over, or a second Ctrl-C came
            for one in self._running.values():
                one.kill()
            self._running.clear()


@dataclass(frozen=True)
class _Process:
    process: subprocess.Popen[bytes]
    slot: int
    start: float

    def ended(self, name: str) -> Ended:
        return Ended(name, self.process.returncode, time.monotonic() - self.start)

    def kill(self) -> None:
        """Kills the process with its children."""
        with suppress(ProcessLookupError):
            if hasattr(os, "killpg"):
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                self.process.kill()
        self.process.wait()


def _heading(arguments: Sequence[str]) -> str:
    """Returns the first line of an attempt's log."""
    return f"$ qreg-yolo {shlex.join(arguments)}\n"


@dataclass
class InProcessEngine:
    """Runs each command at once, in this process; for tests."""

    run: Callable[[Sequence[str]], int]
    """Takes the arguments, returns the exit status."""
    slots: int = 1
    _over: list[Ended] = field(default_factory=list)

    def submit(self, task: Task) -> Submitted:
        start, arguments = time.monotonic(), task.arguments()
        if arguments is None:
            return "done"
        with task.log.open("a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
            log.write(_heading(arguments))
            code = self.run(arguments)
        self._over.append(Ended(task.name, code, time.monotonic() - start))
        return "started"

    def wait(self, seconds: float) -> list[Ended]:
        over, self._over = self._over, []
        return over

    def cancel(self) -> None:
        """Has nothing to end."""
