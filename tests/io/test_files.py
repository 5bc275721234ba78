from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from qreg_yolo.io import files


def test_a_write_replaces_the_whole_content(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    files.write_text(path, "a long first version\n")
    files.write_text(path, "größer\r\n")
    assert path.read_bytes() == "größer\r\n".encode()
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "a.bin"
    files.write_bytes(path, b"old")

    def fail(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_readers_never_meet_a_half_written_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    files.write_bytes(path, b"old")
    seen = []
    fsync = os.fsync

    def look(handle: int) -> None:
        seen.append(path.read_bytes())
        fsync(handle)

    monkeypatch.setattr(os, "fsync", look)
    files.write_bytes(path, b"new")
    assert seen[0] == b"old"  # before the rename
    assert seen[1:] == [b"new"]  # the folder's own sync


@pytest.mark.skipif(os.name != "posix", reason="permission bits are POSIX")
def test_permissions_are_those_of_an_ordinary_file_and_are_kept(tmp_path: Path) -> None:
    ordinary, path = tmp_path / "ordinary", tmp_path / "ours"
    ordinary.touch()
    files.write_bytes(path, b"1")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)
    path.chmod(0o640)
    files.write_bytes(path, b"2")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.write_text(tmp_path / "none" / "a.txt", "x")


@pytest.mark.parametrize("content", [b"", b"abc", bytes(range(256)) * 8193])
def test_sha256(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(content)
    assert files.sha256(path) == hashlib.sha256(content).hexdigest()
