"""One process writes into a folder of sets, and says at once where it cannot."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qreg_yolo.datasets.corrupted.write import write_sets
from qreg_yolo.datasets.sources import read_source
from qreg_yolo.errors import DataError
from qreg_yolo.io.locks import FolderInUseError, FolderLock
from tests.datasets.corrupted.corrupted_helpers import contents, request, write_set


@pytest.fixture
def yaml(tmp_path: Path) -> Path:
    return write_set(tmp_path / "set")


def test_a_second_process_is_refused_before_it_does_anything(
    yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with FolderLock().take(out):
        with monkeypatch.context() as patch:
            patch.setattr("qreg_yolo.datasets.corrupted.write.look", lambda *_: pytest.fail("images were looked at"))
            with pytest.raises(FolderInUseError, match=rf"is writing into '{out}'\. Wait"):
                write_sets(read_source(yaml), request(out), approve=lambda size: pytest.fail("asked"))
        assert os.listdir(out) == [".lock"]
    (out / ".lock").write_text("of a process that was killed\n")
    write_sets(read_source(yaml), request(out))
    write_sets(read_source(yaml), request(tmp_path / "other"))
    assert contents(out) == contents(tmp_path / "other")
    assert not (out / ".lock").exists()


def test_a_process_that_starts_to_write_meanwhile_is_named(yaml: Path, tmp_path: Path) -> None:
    out, lock = tmp_path / "out", FolderLock()
    out.mkdir()
    with lock, pytest.raises(FolderInUseError, match=r"^Another process"):
        write_sets(read_source(yaml), request(out), approve=lambda size: lock.take(out))


def test_what_another_process_wrote_meanwhile_is_noticed(yaml: Path, tmp_path: Path) -> None:
    source, out = read_source(yaml), tmp_path / "out"

    def meanwhile(size: int) -> None:
        write_sets(source, request(out, corruptions=("snow",)))

    with pytest.raises(DataError, match=r"written into '.*'. Start the same command again"):
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
