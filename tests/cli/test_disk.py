"""A disk that fills up and a folder that vanishes while a run goes on; labels that are empty; folders for files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import Outcome, assert_refused, qreg_yolo
from tests.interruption_helpers import PROGRAM
from tests.process_helpers import run_forked

SIGNAL = "os.kill(os.getpid(), signal.SIGINT)"
assert SIGNAL in PROGRAM


def meanwhile(statement: str, *arguments: object) -> Outcome:
    """Trains in a process that does something in the second batch of the second epoch."""
    run = run_forked(PROGRAM.replace(SIGNAL, statement), "train", *arguments)
    return Outcome(run.returncode, run.stdout, run.stderr, run.stdout)


def test_a_full_disk_leaves_the_last_checkpoint(hyp: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("resource")
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    arguments = ["--hyp", hyp, "--data", data, "--threads", 1, "epochs=3", f"project={tmp_path}", "name=run"]
    outcome = meanwhile(full, *arguments)
    weights = tmp_path / "run" / "weights"
    assert_refused(outcome, 1, "checkpoint of epoch 2", str(weights), "Make room", str(weights / "last.pt"))
    assert {path.name for path in weights.iterdir()} == {"best.pt", "last.pt", "last.resume.pt"}, "partial files stay"
    resumed = qreg_yolo("train", "--resume", weights / "last.pt", "--threads", 1)
    assert resumed.code == 0, resumed
    assert "from epoch 2 to 3" in resumed.log
    assert "not bit for bit" not in resumed.log


def test_a_folder_that_vanishes_is_made_again(hyp: Path, data: Path, tmp_path: Path) -> None:
    gone = f"import shutil; shutil.rmtree({str(tmp_path / 'run')!r})"
    arguments = ["--hyp", hyp, "--data", data, "--threads", 1, "epochs=3", f"project={tmp_path}", "name=run"]
    outcome = meanwhile(gone, *arguments)
    assert "Traceback" not in outcome.out + outcome.err
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "run" / "weights" / "best.pt").is_file()


def test_an_empty_label_file_is_an_image_without_objects(hyp: Path, data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "own"
    shutil.copytree(data.parent, copy)
    yaml = copy / data.name
    yaml.write_text(data.read_text().replace(str(data.parent), str(copy)))
    (copy / "labels" / "train" / "train-0001.txt").write_text("")
    outcome = qreg_yolo("train", "--hyp", hyp, "--data", yaml, "--threads", 1, f"project={tmp_path}", "name=run")
    assert outcome.code == 0, outcome


@pytest.mark.parametrize("option", ["--data", "--hyp", "--weights", "--model", "--resume"])
def test_a_folder_for_a_file(option: str, hyp: Path, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / ("folder.pt" if option in ("--weights", "--resume") else "folder.yaml")
    folder.mkdir()
    sound = {"--hyp": hyp, "--data": data} if option != "--resume" else {}
    arguments = [word for pair in {**sound, option: folder}.items() for word in pair]
    outcome = qreg_yolo("train", *arguments, "--threads", 1)
    assert outcome.code in (1, 2)
    assert_refused(outcome, outcome.code, str(folder))
