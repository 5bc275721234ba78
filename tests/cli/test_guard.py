"""SIGTERM, and two runs in one folder at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import assert_refused, qreg_yolo
from tests.interruption_helpers import PROGRAM
from tests.process_helpers import run_forked


def test_sigterm_keeps_the_last_epoch_and_exits_with_143(hyp: Path, data: Path, tmp_path: Path) -> None:
    arguments = ["--hyp", hyp, "--data", data, "--threads", 1, "epochs=3", f"project={tmp_path}", "name=run"]
    program = PROGRAM.replace("getpid(), signal.SIGINT", "getpid(), signal.SIGTERM")
    run = run_forked(program, "train", *arguments)
    last = tmp_path / "run" / "weights" / "last.pt"
    assert run.returncode == 143, run.stderr
    assert f"qreg-yolo train --resume {last}" in run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr
    assert not (tmp_path / "run" / ".lock").exists()
    resumed = qreg_yolo("train", "--resume", last, "--threads", 1)
    assert resumed.code == 0, resumed
    assert "not bit for bit" not in resumed.log


def test_two_runs_do_not_share_a_folder(hyp: Path, data: Path, tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    folder = tmp_path / "run"
    folder.mkdir()
    table = folder / "results.csv"
    table.write_text("of the other run\n")
    arguments = ["--hyp", hyp, "--data", data, "--threads", 1, f"project={tmp_path}", "name=run", "exist_ok=true"]
    with (folder / ".lock").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert_refused(qreg_yolo("train", *arguments), 1, "Another process", str(folder), "name=")
    assert table.read_text() == "of the other run\n"
    finished = qreg_yolo("train", *arguments)  # the lock of a process that is gone is no lock
    assert finished.code == 0, finished
