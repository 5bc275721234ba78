"""The run of a study: order, failures, resuming, and what stays on the disk."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from qreg_yolo.errors import FileAccessError
from qreg_yolo.io.locks import FolderInUseError, FolderLock
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.study.config import Grid, StudyConfig
from qreg_yolo.study.engines import InProcessEngine, Task
from qreg_yolo.study.history import FILE, History
from qreg_yolo.study.run import STUDY, Run, execute
from tests.study.fake_jobs import Events, jobs_in, writer

STUDY_OF_ONE = StudyConfig(grid=Grid(model="resnet20"))
NEEDS = {"a": "", "b": "a", "c": "a b", "d": ""}


def run_in(folder: Path, engine: InProcessEngine, only: str | None = None, **needs: Any) -> Run:
    return Run.of(jobs_in(folder, **(needs or {"needs": NEEDS})), folder, engine, only)


def history(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / FILE).read_text().splitlines()]


def test_each_job_runs_once_after_what_it_needs(tmp_path: Path) -> None:
    seen: list[str] = []
    run = run_in(tmp_path, writer(seen=seen))
    assert run.plan == "0 done, 0 incomplete, 4 to run. Estimated time: unknown, nothing like it was measured yet."
    assert execute(STUDY_OF_ONE, run, Events())
    assert sorted(seen) == ["a", "b", "c", "d"]
    assert seen.index("a") < seen.index("b") < seen.index("c")
    assert [row["job"] for row in history(tmp_path)] == seen
    assert {row["exit"] for row in history(tmp_path)} == {0}
    assert (tmp_path / STUDY).read_text().startswith("grid:")
    again = run_in(tmp_path, writer(seen=seen))
    assert again.plan == "4 done, 0 incomplete, 0 to run."
    assert execute(STUDY_OF_ONE, again, Events())
    assert len(seen) == 4


def test_a_new_job_runs_alone(tmp_path: Path) -> None:
    seen: list[str] = []
    execute(STUDY_OF_ONE, run_in(tmp_path, writer()), Events())
    run = run_in(tmp_path, writer(seen=seen), needs={**NEEDS, "e": "a"})
    assert run.plan.startswith("4 done, 0 incomplete, 1 to run. Estimated time: 0 s")
    execute(STUDY_OF_ONE, run, Events())
    assert seen == ["e"]


def test_a_failure_is_recorded_and_the_rest_runs(tmp_path: Path) -> None:
    events = Events()
    run = run_in(tmp_path, writer(bad=["b"]), needs={"needs": {**NEEDS, "e": ""}, "after": {"e": "b d"}}["needs"])
    assert not execute(STUDY_OF_ONE, run, events)
    assert run.states == {"a": "done", "b": "failed", "c": "blocked", "d": "done", "e": "done"}
    (row,) = [row for row in history(tmp_path) if row["exit"]]
    assert (row["job"], row["exit"], row["end"][-1]) == ("b", 3, "error: it is broken")
    told = "\n".join(events.texts)
    assert "b failed (exit status 3)" in told
    assert "error: it is broken" in told
    assert "c cannot run without b" in told
    assert execute(STUDY_OF_ONE, run_in(tmp_path, writer(), needs=NEEDS), Events()), "the same call tries again"


def test_what_comes_after_a_failed_job_still_runs(tmp_path: Path) -> None:
    jobs = jobs_in(tmp_path, {"a": "", "b": ""}, after={"b": "a"})
    run = Run.of(jobs, tmp_path, writer(bad=["a"]), None)
    assert not execute(STUDY_OF_ONE, run, Events())
    assert run.states == {"a": "failed", "b": "done"}


def test_success_without_results_is_a_failure(tmp_path: Path) -> None:
    run = Run.of(jobs_in(tmp_path, {"a": ""}), tmp_path, InProcessEngine(lambda arguments: 0), None)
    events = Events()
    assert not execute(STUDY_OF_ONE, run, events)
    assert "it ended without its results" in events.texts[-1]


def test_only_some_jobs(tmp_path: Path) -> None:
    seen: list[str] = []
    run = run_in(tmp_path, writer(seen=seen), only="[ad]")
    assert "2 to run, 2 left out by --only" in run.plan
    assert execute(STUDY_OF_ONE, run, Events())
    assert sorted(seen) == ["a", "d"]
    with pytest.raises(ConfigError, match=r"--only aa: no job matches. Did you mean 'a'\?"):
        run_in(tmp_path, writer(), only="aa")


def test_a_job_whose_need_is_left_out_does_not_run(tmp_path: Path) -> None:
    run = run_in(tmp_path, writer(), only="b")
    assert not execute(STUDY_OF_ONE, run, Events())
    assert run.states["b"] == "blocked"


def test_two_calls_in_one_folder(tmp_path: Path) -> None:
    with FolderLock().take(tmp_path), pytest.raises(FolderInUseError, match="Another process"):
        execute(STUDY_OF_ONE, run_in(tmp_path, writer()), Events())


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143), OSError(errno.ENOSPC, "No space left")])
def test_commands_are_ended_before_an_error_leaves(error: BaseException, tmp_path: Path) -> None:
    ended = []

    class Endless(InProcessEngine):
        def submit(self, task: Task) -> Any:
            return "started"

        def cancel(self) -> None:
            ended.append(True)

    def fail() -> None:
        raise error

    events = Events(fail)
    full = isinstance(error, OSError)
    text = "No space left.*the same command resumes" if full else None
    with pytest.raises(FileAccessError if full else type(error), match=text):
        execute(STUDY_OF_ONE, run_in(tmp_path, Endless(lambda arguments: 0)), events)
    assert ended == [True]
    assert events.texts[-1] == "Stopping 1 jobs"
    with FolderLock().take(tmp_path):
        pass


def test_a_full_disk_is_told_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("qreg_yolo.study.run.write_text", full)
    seen: list[str] = []
    with pytest.raises(FileAccessError, match=r"No space left on device.*the same command resumes"):
        execute(STUDY_OF_ONE, run_in(tmp_path, writer(seen=seen)), Events())
    assert seen == []


def test_a_job_that_an_earlier_call_still_runs_is_waited_for(tmp_path: Path) -> None:
    class Locked(InProcessEngine):
        tries = 0

        def submit(self, task: Task) -> Any:
            Locked.tries += 1
            if Locked.tries == 3:
                (tmp_path / "a").write_text("by the earlier call")
            return "locked" if Locked.tries < 3 else super().submit(task)

    events = Events()
    run = Run.of(jobs_in(tmp_path, {"a": ""}), tmp_path, Locked(lambda arguments: 1), None)
    assert execute(STUDY_OF_ONE, run, events)
    assert events.texts == ["a still runs in a process of an earlier call; waiting for its end"]
    assert not (tmp_path / FILE).exists(), "this call did not run it"


def test_the_history_survives_a_line_that_was_cut_short(tmp_path: Path) -> None:
    (job,) = jobs_in(tmp_path, {"a": ""})
    History(tmp_path).add(job, units=2, seconds=6, exit_status=0, command="x", end=[])
    with (tmp_path / FILE).open("a") as file:
        file.write('{"job": "a", "gro')
    again = History(tmp_path)
    assert again.estimate(job, 3) == 9
    again.add(job, units=1, seconds=6, exit_status=0, command="x", end=[])
    assert History(tmp_path).estimate(job, 1) == 4


def test_what_has_results_waits_for_new_work_before_it(tmp_path: Path) -> None:
    jobs = jobs_in(tmp_path, {"a": "", "b": "", "c": ""}, after={"c": "a b"})
    (tmp_path / "a").touch()
    (tmp_path / "c").touch()
    assert Run.of(jobs, tmp_path, writer(), None).states == {"a": "done", "b": "waiting", "c": "waiting"}
    assert Run.of(jobs, tmp_path, writer(), "c").states == {"a": "done", "b": "left out", "c": "done"}
