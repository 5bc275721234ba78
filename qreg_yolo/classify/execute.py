"""The training loop and its results: checkpoints, logs, records and messages after an interruption."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from qreg_yolo.classify import outputs
from qreg_yolo.classify.checkpoint import Description, Progress, save_classifier, staging
from qreg_yolo.classify.models import is_import_path
from qreg_yolo.classify.train import Run, build_optimizer, fit
from qreg_yolo.errors import FileAccessError
from qreg_yolo.io import files
from qreg_yolo.io.files import what_is_kept
from qreg_yolo.io.locks import FolderLock
from qreg_yolo.io.process import terminable
from qreg_yolo.quant.report import model_size, plan_summary
from qreg_yolo.training.epoch_zero import NAME
from qreg_yolo.training.finite import NonFiniteError
from qreg_yolo.training.oscillation import oscillation_extensions

LAST = "last.safetensors"


@dataclass(frozen=True)
class RunResult:
    """The files and the results of a run."""

    save_dir: Path
    """The run's folder."""
    accuracy: float
    """Top-1 of the last epoch, 0..1."""
    table: str
    """Its results, for a terminal."""


def execute(run: Run, description: Description, folder: Path) -> RunResult:
    """Trains the rest of a run and finishes it: records, and the checkpoint without the state for resuming.

    Raises:
        FolderInUseError: Another process is writing into the folder.
        NonFiniteError: The loss became infinite or NaN.
        OSError: A checkpoint could not be written; the one before is intact.
    """
    last = folder / "weights" / LAST
    events = outputs.tensorboard(folder) if run.processes.is_first else None
    line = outputs.ProgressLine(run.batch, quiet=not run.processes.is_first)
    optimizer = build_optimizer(run.config, run.model)
    run.staging = staging(description)
    if run.progress.epoch:
        run.staging.resume(run.progress.epoch - 1, run.model)
    run.extensions = oscillation_extensions(run.model, run.config.oscillation, log=run.config.train.log_noise)
    run.extensions.attach(optimizer)
    _restore(optimizer, run.progress)
    run.extensions.restore(run.progress.extensions)
    if run.config.train.compile:
        run.model.compile(dynamic=False)

    def on_epoch(row: dict[str, float]) -> None:
        run.progress.optimizer = optimizer.state_dict()["state"]
        run.progress.extensions = run.extensions.state()
        with _writing(f"The checkpoint of epoch {run.progress.epoch}", last):
            last.parent.mkdir(parents=True, exist_ok=True)
            save_classifier(last, run.model, description, run.progress)
            outputs.write_results(folder, run.progress.rows, run.progress.zero)
        print(outputs.epoch_line(row, run.config.train.epochs, line.rate), flush=True)
        if events is not None:
            events(row)

    with FolderLock() as lock:
        if run.processes.is_first:
            lock.take(folder)
            print(plan_summary(description.layers, description.skipped), flush=True)
        with terminable(), _resumable(last, description.model, quiet=not run.processes.is_first):
            fit(run, optimizer, on_epoch=on_epoch, on_step=line)
            return _finish(run, description, folder)


def _restore(optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Restores the optimizer's state of a resumed run."""
    if progress.optimizer is not None:
        state = {int(number): values for number, values in progress.optimizer.items()}
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


@contextmanager
def _writing(what: str, last: Path) -> Iterator[None]:
    """Reports files that could not be written inside the block, and the remaining ones."""
    try:
        yield
    except OSError as error:
        raise FileAccessError(
            f"{what} could not be written to '{last.parent}': {error.strerror or error}. Make room there. "
            f"{what_is_kept(last)}"
        ) from error


def _finish(run: Run, description: Description, folder: Path) -> RunResult:
    """Records the results of the last epoch and drops the optimizer; may be repeated after a kill at any moment."""
    last, final = folder / "weights" / LAST, folder / "weights" / f".{LAST}.tmp"
    if not run.processes.is_first:
        return RunResult(save_dir=folder, accuracy=float("nan"), table="")
    rows = run.progress.rows
    measured = outputs.measured_in(rows[-1], run.train, run.val)
    with _writing("The results of the last epoch", last):
        save_classifier(final, run.model, description, Progress(epoch=run.progress.epoch))
        data = str(description.config["run"]["data"])
        table = folder / outputs.RECORDS
        outputs.append_records(table, outputs.identity(final, last.stem, description, data), measured, data)
        if (zero := run.progress.zero) is not None:
            identity = outputs.named_identity(zero.weights_sha256, NAME, description, data) | {"training": "none"}
            counts = (run.val.split, len(run.val))
            named = {"accuracy_top1": "metrics/accuracy_top1", "loss": "val/loss"}
            before = {name: (*counts, zero.metrics[column]) for name, column in named.items()}
            outputs.append_records(table, identity, before, data)
        files.replace(final, last)
    size = model_size(run.model)
    text = (
        f"{outputs.final_table(rows, folder)}\n"
        f"Size: {size.quantized_mb:.3f} MB at its bit widths, {size.float_mb:.3f} MB in fp32"
    )
    return RunResult(save_dir=folder, accuracy=rows[-1]["metrics/accuracy_top1"], table=text)


@contextmanager
def _resumable(last: Path, model: str, *, quiet: bool) -> Iterator[None]:
    """Says how to resume a run that is stopped inside the block, and what remains if its numbers fail."""
    try:
        yield
    except NonFiniteError as error:
        raise NonFiniteError(f"{error} {what_is_kept(last)}") from error
    except (KeyboardInterrupt, SystemExit):
        own = f" --model {shlex.quote(model)}" if is_import_path(model) else ""
        command = f"qreg-yolo classify train --resume {shlex.quote(str(last))}{own}"
        if not quiet:
            how = f"Go on with: {command}" if last.is_file() else "No epoch was finished: start again."
            print(f"Interrupted. {how}", file=sys.stderr)
        raise
