"""The table of a study, live and as plain lines."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from qreg_yolo.study.display import LiveDisplay, PlainDisplay, summary
from qreg_yolo.study.engines import InProcessEngine
from qreg_yolo.study.history import end_of
from qreg_yolo.study.run import Run, Running
from tests.study.fake_jobs import FileJob


@dataclass(frozen=True, kw_only=True)
class Counted(FileJob):
    """A job of ten units, of which three are finished."""

    unit = "epoch"

    @property
    def total(self) -> int:
        return 10

    def finished(self) -> int:
        return 3


def run_of(folder: Path, count: int = 3) -> Run:
    jobs = [Counted(name=f"job-{number}", path=folder / str(number)) for number in range(count)]
    run = Run.of(jobs, folder, InProcessEngine(lambda arguments: 0), None)
    run.states["job-0"], run.states["job-1"] = "running", "failed"
    run.running["job-0"] = Running(jobs[0], ["train"], 1, -100.0)
    return run


def drawn(run: Run, monkeypatch: pytest.MonkeyPatch, height: int = 40) -> str:
    monkeypatch.setattr("qreg_yolo.study.display.time.monotonic", lambda: 20.0)
    text = io.StringIO()
    display = LiveDisplay(Console(file=text, width=100, height=height, force_terminal=True, color_system=None))
    with display:
        display.update(run)
    return text.getvalue()


def test_the_table_shows_state_epoch_and_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = drawn(run_of(tmp_path), monkeypatch)
    (line,) = {" ".join(line.split()) for line in text.splitlines() if "job-0" in line}
    assert line == "job-0 running epoch 3 of 10 7 min"  # 2 epochs in 120 s, 7 left
    assert {"job-1", "failed", "waiting"} <= set(text.split())
    assert "0 done, 1 running, 1 waiting, 1 failed" in text


def test_a_long_table_shows_what_runs_and_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = drawn(run_of(tmp_path, 50), monkeypatch, height=12)
    assert {"job-0", "job-1"} <= set(text.split())
    assert "... 44 more" in text


def test_plain_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    with PlainDisplay(lines.append) as display:
        run = run_of(tmp_path)
        display.event(run, "job-0 started", routine=True)
        display.update(run)
        assert len(lines) == 1, "nothing else within ten minutes"
        monkeypatch.setattr("qreg_yolo.study.display._QUIET_S", -1.0)
        display.update(run)
    assert lines[0].endswith("  job-0 started")
    assert "job-0: epoch 3 of 10" in lines[1]
    assert lines[2].endswith("0 done, 1 running, 1 waiting, 1 failed")
    assert summary(run) == "0 done, 1 running, 1 waiting, 1 failed"


def test_the_end_of_a_log_is_what_a_terminal_would_show(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"\x1b[34mblue\x1b[0m\r\n\n 10%\r 50%\r100%\nerror: last\n")
    assert end_of(log) == ["blue", "100%", "error: last"]
    assert end_of(log, 1) == ["error: last"]
    assert end_of(tmp_path / "none") == []
