"""One process writes into a folder of sets, and says at once where it cannot."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qreg_yolo.datasets.corrupted.manifest import only_writer
from qreg_yolo.datasets.corrupted.write import write_sets
from qreg_yolo.datasets.sources import read_source
from qreg_yolo.errors import DataError
from tests import ROOT
from tests.datasets.corrupted.corrupted_helpers import contents, request, write_set


@pytest.fixture
def yaml(tmp_path: Path) -> Path:
    return write_set(tmp_path / "set")


HOLDER = """
import sys, time
from pathlib import Path
from qreg_yolo.datasets.corrupted.manifest import only_writer
with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(120)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """Yields a folder and another process that writes into it."""
    pytest.importorskip("fcntl")
    out = tmp_path / "out"
    out.mkdir()
    arguments = [sys.executable, "-c", HOLDER, str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield out, process
        process.kill()


def test_a_second_process_is_refused_before_it_does_anything(
    holder: tuple[Path, subprocess.Popen[str]], yaml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, process = holder
    monkeypatch.setattr("qreg_yolo.datasets.corrupted.write.look", lambda *_: pytest.fail("images were looked at"))
    with pytest.raises(DataError, match=rf"Another process \({process.pid}\) is writing into '{out}'\. Wait"):
        write_sets(read_source(yaml), request(out), approve=lambda size: pytest.fail("asked"))
    assert os.listdir(out) == [".lock"]


def test_the_lock_of_a_killed_process_is_taken_over(
    holder: tuple[Path, subprocess.Popen[str]], yaml: Path, tmp_path: Path
) -> None:
    out, process = holder
    process.kill()
    process.wait()
    assert (out / ".lock").read_text() == f"{process.pid}\n"
    write_sets(read_source(yaml), request(out))
    write_sets(read_source(yaml), request(tmp_path / "other"))
    assert contents(out) == contents(tmp_path / "other")
    assert not (out / ".lock").exists()


def test_what_another_process_wrote_meanwhile_is_noticed(yaml: Path, tmp_path: Path) -> None:
    source, out = read_source(yaml), tmp_path / "out"

    def meanwhile(size: int) -> None:
        write_sets(source, request(out, corruptions=("snow",)))

    with pytest.raises(DataError, match=r"written into '.*' meanwhile. Start the same command again"):
        write_sets(source, request(out), approve=meanwhile)
    write_sets(source, request(out))
    write_sets(source, request(tmp_path / "alone"))
    assert contents(out) == contents(tmp_path / "alone")


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(
    yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write anywhere but below a regular file; a read-only folder is what the system says of one."""
    monkeypatch.setattr("qreg_yolo.datasets.corrupted.write.look", lambda *_: pytest.fail("images were looked at"))
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot be written: '.*file' is a file. Give another folder"):
        write_sets(read_source(yaml), request(tmp_path / "file" / "out"))
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path and allowed(path, mode))
    with pytest.raises(DataError, match=rf"cannot be written: '{tmp_path}' is read-only"):
        write_sets(read_source(yaml), request(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_only_one_process_writes(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with only_writer(tmp_path), pytest.raises(DataError, match="Another process"), only_writer(tmp_path):
        pass
    assert os.listdir(tmp_path) == []
