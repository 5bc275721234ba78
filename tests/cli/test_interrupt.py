"""Ctrl-C in mid-epoch, and going on from there."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from qreg_yolo.detect.checkpoint import load_weights
from qreg_yolo.detect.trainer import QuantDetectionTrainer
from qreg_yolo.io import records
from tests.cli.conftest import Outcome, Run, assert_refused, qreg_yolo
from tests.interruption_helpers import train_interrupted


def interrupted(*arguments: object) -> Outcome:
    run = train_interrupted(*arguments)
    return Outcome(run.returncode, run.stdout, run.stderr, run.stdout)


@pytest.fixture(scope="module")
def stopped(hyp: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Returns a run of three epochs that was interrupted in the second."""
    project = tmp_path_factory.mktemp("stopped")
    arguments = ["--hyp", hyp, "--data", data, "--threads", 1, "--per-channel", "epochs=3"]
    return Run(project / "run", interrupted(*arguments, f"project={project}", "name=run"))


def resume(run: Run, *options: object) -> Outcome:
    return qreg_yolo("train", "--resume", run.folder / "weights" / "last.pt", "--threads", 1, *options)


def epochs(run: Run) -> list[int]:
    with (run.folder / "results.csv").open(newline="") as file:
        return [int(row["epoch"]) for row in csv.DictReader(file)]


def test_an_interrupted_run_says_how_to_resume(stopped: Run) -> None:
    assert stopped.printed.code == 130
    last = stopped.folder / "weights" / "last.pt"
    said = stopped.printed.out + stopped.printed.err
    assert f"qreg-yolo train --resume {last}" in said
    assert "Interrupted." in stopped.printed.err
    assert "Traceback" not in said
    assert epochs(stopped) == [1]
    _, checkpoint = load_weights(last)
    assert checkpoint["epoch"] == 0
    assert not (stopped.folder / "records.csv").exists(), "nothing is recorded of a run without an end"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--bits", "2"], ["act_bits=4", "2"]),
        (["--act-bits", "8"], ["act_bits=4", "8"]),
        (["--weight-only"], ["act_bits=4", "32"]),
        (["--method", "dorefa"], ["method=lsq", "dorefa"]),
        (["--edge-bits", "same"], ["first_last_bits=None", "same"]),
        (["--activation", "relu"], ["activation=silu", "relu"]),
        (["epochs=9"], ["epochs=9", "cannot change"]),
        (["lr0=0.5"], ["lr0=0.5", "cannot change"]),
        (["batch=0.5", "imgsz=0"], ["imgsz=0"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_a_resumed_run_stays_what_it_was(options: list[str], words: list[str], stopped: Run) -> None:
    assert_refused(resume(stopped, *options), 2, *words)
    assert epochs(stopped) == [1]


@pytest.mark.parametrize("how", ["resume", "weights"])
def test_a_checkpoint_is_read_once(
    how: str, stopped: Run, trained: Run, hyp: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts how often the file is unpickled until the first batch, by whatever way."""
    reads: Counter[str] = Counter()
    original = torch.load

    def counted(file: Any, *args: Any, **kwargs: Any) -> Any:
        reads[str(file)] += 1
        return original(file, *args, **kwargs)

    def stop(trainer: Any, batch: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "load", counted)
    monkeypatch.setattr(QuantDetectionTrainer, "preprocess_batch", stop)
    if how == "resume":
        path, outcome = stopped.folder / "weights" / "last.pt", resume(stopped)
    else:
        path, outcome = trained.best, qreg_yolo("train", "--hyp", hyp, "--data", data, "--weights", trained.best)
    assert outcome.code == 130, outcome.err
    assert reads[str(path)] == 1


def test_a_resumed_run_ends_where_it_would_have(stopped: Run, tmp_path: Path) -> None:
    outcome = resume(stopped, "--bits", "4", "--per-channel", "workers=0")
    assert outcome.code == 0, outcome.err
    assert epochs(stopped) == [1, 2, 3]
    assert "Calibrated" not in outcome.log
    assert "23 x W4 lsq A4 lsq" in outcome.log
    assert len(records.read(stopped.folder / "records.csv")) == 4 + 10
    assert_refused(resume(stopped), 2, "finished run", "--weights")


@pytest.mark.parametrize("nth", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_run_that_was_stopped_after_its_last_epoch_is_concluded(
    nth: int, trained: Run, hyp: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before and after the best checkpoint was measured."""
    original, seen = QuantDetectionTrainer.run_callbacks, 0

    def stop(trainer: Any, name: str) -> None:
        nonlocal seen
        seen += name == "on_fit_epoch_end"
        if seen == nth:
            raise KeyboardInterrupt
        original(trainer, name)

    with monkeypatch.context() as patch:
        patch.setattr(QuantDetectionTrainer, "run_callbacks", stop)
        options = ["--bits", 4, "--method", "lsq", "--seed", 3, "--threads", 1]
        outcome = qreg_yolo("train", "--hyp", hyp, "--data", data, *options, f"project={tmp_path}", "name=run")
    run = Run(tmp_path / "run", outcome)
    assert outcome.code == 130, outcome.err
    assert not (run.folder / records.FILE).exists()
    outcome = resume(run)
    assert outcome.code == 0, outcome.err
    numbers = [records.read(one.folder / records.FILE).select("metric", "value", "n_images") for one in (run, trained)]
    assert numbers[0].equals(numbers[1])
    assert epochs(run) == epochs(trained)
    assert sorted(path.name for path in run.best.parent.iterdir()) == ["best.pt", "best.safetensors", "last.pt"]
    assert_refused(resume(run), 2, "finished run", "--weights")


def test_a_finished_run_and_another_programs_run_are_not_resumed(trained: Run, tmp_path: Path) -> None:
    assert_refused(qreg_yolo("train", "--resume", trained.best), 2, "finished run", "--weights")
    checkpoint = torch.load(trained.best, weights_only=False)
    checkpoint |= {"epoch": 0, "optimizer": {}}  # Ultralytics keeps only its own arguments in best.pt
    torch.save(checkpoint, tmp_path / "foreign.pt")
    assert_refused(qreg_yolo("train", "--resume", tmp_path / "foreign.pt"), 2, "not of a run of qreg-yolo", "--weights")


def test_interrupted_before_the_first_checkpoint(hyp: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def preprocess_batch(trainer: Any, batch: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(QuantDetectionTrainer, "preprocess_batch", preprocess_batch)
    outcome = qreg_yolo("train", "--hyp", hyp, "--data", data, "--threads", 1)
    assert outcome.code == 130
    assert "before the first checkpoint" in outcome.log
    assert "--resume" not in outcome.log + outcome.err
