"""The run of a study: starts each job when its needs are done, with no state but what is on the disk."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, Protocol

from qreg_yolo.errors import FileAccessError, did_you_mean
from qreg_yolo.io.files import writable_project, write_text
from qreg_yolo.io.locks import FolderInUseError, FolderLock
from qreg_yolo.io.process import terminable
from qreg_yolo.io.strict_yaml import ConfigError, dumps
from qreg_yolo.study.config import StudyConfig
from qreg_yolo.study.engines import Ended, Engine, Task
from qreg_yolo.study.history import History, duration, end_of, total_time
from qreg_yolo.study.jobs import Job

State = Literal["done", "waiting", "running", "failed", "blocked", "left out"]
OVER: tuple[State, ...] = ("done", "failed", "blocked", "left out")
STUDY = "study.yaml"
"""Copy of the study in its folder."""
_TICK_S = 1.0


class Display(Protocol):
    """Shows the run of a study."""

    def update(self, run: Run) -> None:
        """Shows the present state; called about once a second."""

    def event(self, run: Run, text: str, *, routine: bool = False) -> None:
        """Shows that something happened; ``routine``: that a job started or is done."""


@dataclass
class Run:
    """The state of a study's jobs."""

    jobs: Sequence[Job]
    folder: Path
    engine: Engine
    history: History
    states: dict[str, State] = field(default_factory=dict)
    running: dict[str, Running] = field(default_factory=dict)
    locked: set[str] = field(default_factory=set)
    """Jobs that a process of an earlier call still runs."""

    @classmethod
    def of(cls, jobs: Sequence[Job], folder: Path, engine: Engine, only: str | None) -> Run:
        """Returns the run of those jobs whose names match a pattern (None: all), as the disk has it.

        Raises:
            ConfigError: No job matches; the nearest is named.
        """
        names = [job.name for job in jobs]
        if only is not None and not any(fnmatchcase(name, only) for name in names):
            raise ConfigError(f"--only {only}: no job matches.{did_you_mean(only, names)} --dry-run lists them.")
        run = cls(jobs, folder, engine, History(folder))
        for job in jobs:
            chosen = only is None or fnmatchcase(job.name, only)
            before = [run.states[one.name] for one in (*job.needs, *job.after)]
            done = job.is_done() and not (chosen and "waiting" in before)  # else there will be more to work on
            run.states[job.name] = "done" if done else "waiting" if chosen else "left out"
        return run

    def in_state(self, *states: State) -> list[Job]:
        """Returns the jobs that are in one of some states."""
        return [job for job in self.jobs if self.states[job.name] in states]

    @property
    def plan(self) -> str:
        """What is done, incomplete and to run, with the estimated time."""
        left = self.in_state("waiting")
        begun = sum(job.finished() > 0 for job in left)
        seconds, unknown = total_time(self.history, left, self.engine.slots)
        text = f"{len(self.in_state('done'))} done, {begun} incomplete, {len(left) - begun} to run"
        if others := len(self.in_state("left out")):
            text += f", {others} left out by --only"
        if not left:
            return f"{text}."
        if unknown == len(left):
            return f"{text}. Estimated time: unknown, nothing like it was measured yet."
        more = f" and {unknown} jobs of kinds that were not measured yet" if unknown else ""
        return f"{text}. Estimated time: {duration(seconds)}{more}."

    def log(self, job: Job) -> Path:
        """Returns the file of a job's output."""
        return self.folder / "logs" / f"{job.name.replace('/', '-')}.log"

    def execute(self, display: Display) -> None:
        """Runs what is left; ends every command before it raises, an `OSError` where the folder cannot be written."""
        try:
            (self.folder / "logs").mkdir(exist_ok=True)
            while True:
                self._start(display)
                if not self.running and not self.in_state("waiting"):
                    return
                for ended in self.engine.wait(_TICK_S):
                    self._end(ended, display)
                display.update(self)
        except BaseException:
            if self.running:
                display.event(self, f"Stopping {len(self.running)} jobs")
            self.engine.cancel()
            raise

    def _start(self, display: Display) -> None:
        for job in self.in_state("waiting"):
            missing = [one.name for one in job.needs if self.states[one.name] in ("failed", "blocked", "left out")]
            if missing or (self._is_ready(job) and not job.has_inputs()):
                self.states[job.name] = "blocked"
                display.event(self, f"{job.name} cannot run without {', '.join(missing) or 'a training that is done'}")
            elif self._is_ready(job) and self._has_room(job):
                self._submit(job, display)

    def _is_ready(self, job: Job) -> bool:
        return all(self.states[one.name] == "done" for one in job.needs) and all(
            self.states[one.name] in OVER for one in job.after
        )

    def _has_room(self, job: Job) -> bool:
        wide = any(one.job.wide for one in self.running.values())
        return not self.running if job.wide else not wide and len(self.running) < self.engine.slots

    def _submit(self, job: Job, display: Display) -> None:
        before, arguments = job.finished(), list[str]()

        def command() -> list[str] | None:
            arguments[:] = [] if job.is_done() else job.command()
            return arguments or None

        submitted = self.engine.submit(Task(job.name, command, self.log(job), job.wide))
        if submitted == "done":
            self.states[job.name] = "done"
        elif submitted == "started":
            self.states[job.name] = "running"
            self.running[job.name] = Running(job, arguments, before, time.monotonic())
            display.event(self, f"{job.name} started" + (f" after {job.unit} {before}" if before else ""), routine=True)
        elif job.name not in self.locked:
            self.locked.add(job.name)
            display.event(self, f"{job.name} still runs in a process of an earlier call; waiting for its end")

    def _end(self, ended: Ended, display: Display) -> None:
        one = self.running.pop(ended.name)
        job, done = one.job, one.job.is_done()
        failed = ended.code != 0 or not done
        self.states[job.name] = "failed" if failed else "done"
        end = end_of(self.log(job)) if failed else []
        command = shlex.join(["qreg-yolo", *one.arguments])
        units = job.finished() - one.before
        self.history.add(job, units=units, seconds=ended.seconds, exit_status=ended.code, command=command, end=end)
        if failed:
            why = f"exit status {ended.code}" if ended.code else "it ended without its results"
            lines = "".join(f"\n    {line}" for line in end)
            display.event(self, f"{job.name} failed ({why}); the end of {self.log(job)}:{lines}")
        else:
            display.event(self, f"{job.name} done in {duration(ended.seconds)}", routine=True)


@dataclass(frozen=True)
class Running:
    """A job that runs."""

    job: Job
    arguments: Sequence[str]
    before: int
    """Units that were finished before."""
    start: float
    """Of `time.monotonic`."""


def execute(study: StudyConfig, run: Run, display: Display) -> bool:
    """Runs a study in its folder, which no other process may do meanwhile; returns whether nothing failed.

    Raises:
        FolderInUseError: Another process runs a study there.
        OSError: The folder cannot be written.
    """
    writable_project(run.folder, "folder with --out")
    try:
        with FolderLock().take(run.folder), terminable():
            write_text(run.folder / STUDY, dumps(study.to_dict()))
            run.execute(display)
    except FolderInUseError:
        raise
    except OSError as error:
        raise FileAccessError(
            f"'{run.folder}' cannot be written: {error.strerror or error}. What is finished is kept: make room there, "
            "then the same command resumes."
        ) from error
    return not run.in_state("failed", "blocked")
