"""What the detector's trainer adds to the guards of a run: the lock as a callback, and how to go on."""

from __future__ import annotations

import shlex

from ultralytics.engine.trainer import BaseTrainer

from qreg_yolo.training.guard import FolderLock


class RunLock(FolderLock):
    """A callback of the trainer: takes the run's folder for this process, until it ends in whatever way.

    Raises:
        FolderInUseError: Another process is writing into the folder.
    """

    def __call__(self, trainer: BaseTrainer) -> None:
        self.take(trainer.save_dir)


def how_to_go_on(trainer: BaseTrainer | None) -> str:
    """Returns what to say after Ctrl-C or SIGTERM."""
    last = getattr(trainer, "last", None)
    if last is None or not last.is_file():
        return "Interrupted before the first checkpoint: start again."
    return f"Interrupted. Go on with: qreg-yolo train --resume {shlex.quote(str(last))}"
