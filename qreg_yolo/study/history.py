"""Every attempt at a job: time, exit status, the end of a failed job's log; and estimates from the times."""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from qreg_yolo.io import records
from qreg_yolo.study.jobs import Job

FILE = "jobs.jsonl"
"""Name of the file in a study's folder: one JSON object per attempt."""
END_LINES = 15
"""Lines of a failed job's log that are kept and shown."""
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Attempt:
    """One attempt at a job."""

    job: str
    group: str
    """Of `Job.group`."""
    units: int
    """Units of work that it finished."""
    seconds: float
    exit: int
    command: str
    end: list[str]
    """The end of its log, if it failed."""
    commit: str
    time: str
    """UTC, ISO 8601."""


class History:
    """The attempts of a study.

    Args:
        folder: The study's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._spent: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.is_file() else []
        for line in lines:
            try:
                row = json.loads(line)
                self._count(str(row["group"]), int(row["units"]), float(row["seconds"]))
            except (ValueError, KeyError, TypeError):
                continue  # a line that a full disk or a kill cut short

    def add(self, job: Job, *, units: int, seconds: float, exit_status: int, command: str, end: list[str]) -> None:
        """Appends an attempt; raises `OSError` where the file cannot be written."""
        origin = records.provenance()
        attempt = Attempt(
            job.name, job.group, units, round(seconds, 1), exit_status, command, end, origin["commit"], origin["time"]
        )
        with self._path.open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # the last line was cut short
                    file.write(b"\n")
            file.write(json.dumps(asdict(attempt)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._count(job.group, units, seconds)

    def _count(self, group: str, units: int, seconds: float) -> None:
        if units > 0:
            self._spent[group][0] += seconds
            self._spent[group][1] += units

    def estimate(self, job: Job, units: int) -> float | None:
        """Returns the seconds that some units of a job take, by the mean of its group; None: not measured yet."""
        seconds, known = self._spent[job.group]
        return seconds / known * units if known else None


def end_of(log: Path, lines: int = END_LINES) -> list[str]:
    """Returns the last lines of a log that are not blank, without colours; of a progress bar its last state."""
    try:
        size = log.stat().st_size
        with log.open("rb") as file:
            file.seek(max(size - 20_000, 0))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    shown = (_ESCAPE.sub("", line.rpartition("\r")[2]).rstrip() for line in text.replace("\r\n", "\n").split("\n"))
    return [line[:300] for line in shown if line][-lines:]


def duration(seconds: float | None) -> str:
    """Returns seconds as text.

    >>> [duration(one) for one in (4.2, 75, 3700, 400000, None)]
    ['4 s', '1 min 15 s', '1 h 1 min', '4 d 15 h', 'unknown']
    """
    if seconds is None:
        return "unknown"
    whole = round(seconds)
    for size, name, small, part in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size} {name}" + (f" {rest} {part}" if rest else "")
    return f"{whole} s"


def total_time(history: History, jobs: Iterable[Job], slots: int) -> tuple[float, int]:
    """Returns the seconds that the jobs take, and the number of those that were not measured yet."""
    seconds, unknown = 0.0, 0
    for job in jobs:
        one = history.estimate(job, job.total - job.finished())
        seconds += (one or 0.0) / (1 if job.wide else slots)
        unknown += one is None
    return seconds, unknown
