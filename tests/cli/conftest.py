"""The command line run in this process (importing torch costs seconds), and one tiny run shared by the tests."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
import yaml

from tests import TINY
from tests.process_helpers import preload

preload("qreg_yolo.detect.robustness", "qreg_yolo.detect.runs")

RECIPE = {
    "epochs": 1, "imgsz": 32, "batch": 4, "nbs": 4, "optimizer": "SGD", "lr0": 0.01, "warmup_epochs": 0,
    "mosaic": 0.0, "amp": False, "plots": False,
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    """What it printed."""
    err: str
    """What it printed on stderr."""
    log: str
    """What was logged on the way (Ultralytics' logger)."""


def qreg_yolo(*arguments: object) -> Outcome:
    """Runs the command line in this process and puts back what it changes in it."""
    from qreg_yolo.cli import main, process

    out, err = io.StringIO(), io.StringIO()
    with mock.patch.dict(os.environ), redirect_stdout(out), redirect_stderr(err), ultralytics_log() as log:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        process._state["refuse"] = False
    assert isinstance(end.value.code, int)
    return Outcome(end.value.code, out.getvalue(), err.getvalue(), log.getvalue())


@contextmanager
def ultralytics_log() -> Iterator[io.StringIO]:
    """Collects what Ultralytics' logger says, where it has been imported."""
    import logging

    text = io.StringIO()
    handler = logging.StreamHandler(text)
    logger = logging.getLogger("ultralytics")
    logger.addHandler(handler)
    try:
        yield text
    finally:
        logger.removeHandler(handler)


def assert_refused(outcome: Outcome, code: int, *words: str) -> None:
    """Asserts one clear message on stderr, without a traceback."""
    assert outcome.code == code, outcome
    messages = [line for line in outcome.err.splitlines() if line.lower().startswith("error: ")]
    assert len(messages) == 1, outcome.err
    assert "Traceback" not in outcome.err
    assert "QREG_YOLO_DEBUG" not in outcome.err, "an error that nobody foresaw"
    for word in words:
        assert word in outcome.err, f"{word!r} is not in: {outcome.err}"


@pytest.fixture(scope="session", autouse=True)
def _ultralytics_is_imported() -> None:
    """Binds Ultralytics' log handler to pytest's own stdout, not to that of one test."""
    import ultralytics  # noqa: F401


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Puts back torch's threads, and starts each test with one: tiny tensors on a shared machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _empty_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes relative paths (``runs``) land in the test's own folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the data YAML of a set of 8 training and 4 validation images."""
    from qreg_yolo.datasets.demo.write import write_demo_data

    return write_demo_data(tmp_path_factory.mktemp("data") / "set", n_train=8, n_val=4)


@pytest.fixture(scope="session")
def hyp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a recipe of one epoch at 32 pixels for the tiny network."""
    path = tmp_path_factory.mktemp("hyp") / "tiny.yaml"
    path.write_text(yaml.safe_dump({"run": {"model": TINY}, "train": RECIPE}))
    return path


@dataclass(frozen=True)
class Run:
    """A finished training run."""

    folder: Path
    printed: Outcome

    @property
    def best(self) -> Path:
        return self.folder / "weights" / "best.pt"


def train_run(project: Path, hyp: Path, data: Path, *options: object) -> Run:
    """Trains through the command line and returns where the results lie."""
    printed = qreg_yolo(
        "train", "--hyp", hyp, "--data", data, "--threads", 1, f"project={project}", "name=run", *options
    )
    assert printed.code == 0, printed.err
    return Run(project / "run", printed)


@pytest.fixture(scope="session")
def trained(hyp: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Returns a W4A4 LSQ run."""
    return train_run(tmp_path_factory.mktemp("trained"), hyp, data, "--bits", 4, "--method", "lsq", "--seed", 3)
