"""Atomic writes, hashes, links and folders of results (standard library only)."""

from __future__ import annotations

import filecmp
import hashlib
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from qreg_yolo.errors import FileAccessError

DEFAULT_PROJECT = "runs"
_CHUNK = 1 << 20
"""Bytes read at a time when hashing."""


def write_bytes(path: Path, data: bytes, *, scratch: Path | None = None) -> None:
    """Writes a file atomically: a reader sees the old file or the whole new one, even after a crash.

    Args:
        path: The file; its folder has to exist.
        data: The whole content.
        scratch: Folder on the same disk for the unfinished file; None: the same folder.

    Raises:
        OSError: The folder is missing or read-only, or the disk is full; the old file is untouched then.
    """
    handle, name = tempfile.mkstemp(dir=scratch or path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, _mode(path))
        os.replace(name, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise
    _sync_folder(path.parent)


def replace(source: Path, target: Path) -> None:
    """Moves a finished file over another, durably: after a crash the target is the old or the whole new file.

    Args:
        source: In the same folder as ``target``; gone afterwards.
        target: The file that is replaced, or made.
    """
    with source.open("r+b") as file:  # some platforms flush only what is open for writing
        os.fsync(file.fileno())
    os.replace(source, target)
    _sync_folder(target.parent)


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file atomically, as `write_bytes` does (line ends stay as they are)."""
    write_bytes(path, text.encode("utf-8"))


def link_or_copy(source: Path, target: Path) -> str:
    """Links a file to another place, or copies it where links fail.

    Returns:
        "symbolic link", "hard link" or "copy".
    """
    for name, make in (("symbolic link", os.symlink), ("hard link", os.link)):
        with suppress(OSError, NotImplementedError):
            make(source, target)
            return name
    shutil.copyfile(source, target)
    return "copy"


def same_file(path: Path, original: Path) -> bool:
    """Returns whether both are one file (linked), or hold the same bytes (copied)."""
    try:
        return path.samefile(original) or filecmp.cmp(path, original, shallow=False)
    except OSError:
        return False


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file's content: 64 lower-case hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def writable_project(project: object, option: str = "project=") -> str:
    """Returns the project folder as an absolute path (Ultralytics would put a relative one elsewhere), made if absent.

    Args:
        project: As the user gave it; None or empty: `DEFAULT_PROJECT`.
        option: The option that names another folder, for the error text.

    Raises:
        OSError: It cannot be written.
    """
    folder = Path(str(project or DEFAULT_PROJECT)).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise FileAccessError(
            f"The folder '{folder}' cannot be written: {error.strerror}. Give another {option}."
        ) from error
    return str(folder)


def new_folder(project: Path, name: str) -> Path:
    """Makes ``project/name``, or the first of ``name-2``, ``name-3``, ... that does not exist yet; returns it."""
    folder, number = project / name, 1
    while True:
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1
            folder = project / f"{name}-{number}"


def what_is_kept(last: Path) -> str:
    """Returns a sentence on the checkpoint that a stopped run leaves behind."""
    return f"The last good checkpoint is '{last}'." if last.is_file() else "No epoch was finished."


def _mode(path: Path) -> int:
    """Returns the permission bits of the old file, or those a new file would get."""
    with suppress(FileNotFoundError):
        return path.stat().st_mode & 0o7777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _sync_folder(folder: Path) -> None:
    """Makes a rename durable where the platform can (POSIX)."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
