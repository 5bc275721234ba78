"""Where a run's files go."""

from __future__ import annotations

import tempfile
from pathlib import Path

from qreg_yolo.errors import FileAccessError

DEFAULT_PROJECT = "runs"


def writable_project(project: object, option: str = "project=") -> str:
    """Returns the project folder as an absolute path (Ultralytics would put a relative one elsewhere), made if absent.

    Args:
        project: As the user gave it; None or empty: `DEFAULT_PROJECT`.
        option: What the user can give instead, for the message.

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
    """Returns the sentence that says which checkpoint a run that stops leaves behind."""
    return f"The last good checkpoint is '{last}'." if last.is_file() else "No epoch was finished."
