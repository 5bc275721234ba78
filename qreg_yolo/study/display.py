"""The run of a study on a terminal: a live table, or plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from qreg_yolo.study.history import duration, total_time
from qreg_yolo.study.run import OVER, Run, Running

if TYPE_CHECKING:
    from typing_extensions import Self

_STYLES = {"done": "green", "running": "bold", "failed": "bold red", "blocked": "red"}
_REST = 6
"""Lines of the terminal that the table leaves free."""
_QUIET_S = 600.0
"""Seconds after which plain lines say how far the jobs are."""


def progress(run: Run, running: Running, now: float) -> tuple[str, float | None]:
    """Returns how far a running job is, and the seconds left; None: unknown."""
    job, seconds = running.job, now - running.start
    finished = job.finished()
    done = finished - running.before
    by_history = run.history.estimate(job, job.total - running.before)
    left = seconds / done * (job.total - finished) if done > 0 else None
    if left is None and by_history is not None:
        left = max(by_history - seconds, 0.0)
    return f"{job.unit} {finished} of {job.total}" if job.total > 1 else "", left


def summary(run: Run) -> str:
    """Returns the numbers of jobs by state, and the time left."""
    counts = {state: len(run.in_state(state)) for state in ("done", "running", "waiting", "failed", "blocked")}
    text = ", ".join(f"{count} {state}" for state, count in counts.items() if count or state in ("done", "running"))
    seconds, unknown = total_time(run.history, run.in_state("waiting", "running"), run.engine.slots)
    known = counts["waiting"] + counts["running"] - unknown
    return f"{text}; {duration(seconds)} left" + (f" and {unknown} jobs unknown" if unknown else "") if known else text


class PlainDisplay:
    """One line per event, and how far the jobs are every ten minutes.

    Args:
        write: Takes a line.
    """

    def __init__(self, write: Callable[[str], object] = print) -> None:
        self._write, self._last = write, time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, run: Run) -> None:
        now = time.monotonic()
        if now - self._last < _QUIET_S or not run.running:
            return
        for one in run.running.values():
            text, left = progress(run, one, now)
            self._line(f"{one.job.name}: {text or 'running'}, {duration(left)} left")
        self._line(summary(run))

    def event(self, run: Run, text: str, *, routine: bool = False) -> None:
        self._line(text)

    def _line(self, text: str) -> None:
        self._write(f"{time.strftime('%H:%M:%S')}  {text}")
        self._last = time.monotonic()


class LiveDisplay:
    """A table of the jobs, drawn anew every second; failures stay above it.

    Args:
        console: The terminal; None: stderr.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._live = Live(console=console or Console(stderr=True), auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def update(self, run: Run) -> None:
        self._live.update(Group(self._table(run), Text(summary(run))), refresh=True)

    def event(self, run: Run, text: str, *, routine: bool = False) -> None:
        if not routine:  # which the table shows
            self._live.console.print(text, markup=False, highlight=False)
        self.update(run)

    def _table(self, run: Run) -> Table:
        shown = Table(box=None, pad_edge=False)
        for heading in ("job", "state", "", "time left"):
            shown.add_column(heading, no_wrap=True)
        room = max(self._live.console.height - _REST, 5)
        jobs = list(run.jobs)
        if len(jobs) > room:  # what runs and what failed, then the next ones
            first = run.in_state("failed", "running")
            jobs = [*first, *run.in_state("waiting"), *run.in_state("done")][:room]
            jobs.sort(key=lambda job: run.jobs.index(job))
        now = time.monotonic()
        for job in jobs:
            state, text, left = run.states[job.name], "", ""
            if job.name in run.running:
                text, seconds = progress(run, run.running[job.name], now)
                left = duration(seconds)
            elif state not in OVER:
                seconds = run.history.estimate(job, job.total - job.finished())
                left = "" if seconds is None else duration(seconds)
            shown.add_row(job.name, Text(state, style=_STYLES.get(state, "dim")), text, left)
        if len(jobs) < len(run.jobs):
            shown.add_row(f"... {len(run.jobs) - len(jobs)} more", "", "", "")
        return shown
