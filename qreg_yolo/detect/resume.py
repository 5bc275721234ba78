"""Resuming bit for bit: a sidecar beside ``last.pt`` with what Ultralytics rounds or drops, written at epoch boundaries.

Ultralytics restarts from the averaged weights, and rounds momentum to half precision. The sidecar holds the live and the
averaged weights, the optimizer and what the mosaic augmentation has in memory. Random states need no place in it:
`begin_epoch` derives them from the seed and the epoch.

A sidecar names the checkpoint it belongs to by its hash. The new one is complete before ``last.pt`` is replaced, and
takes the old one's place after that, so that a kill at any moment leaves a pair that fits.
"""

from __future__ import annotations

import io
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.utils.torch_utils import unwrap_model

from qreg_yolo.io import files
from qreg_yolo.training.environment import epoch_seed

VERSION = 1
NAME = "last.resume.pt"
"""The sidecar of ``last.pt``."""
_NEXT = "last.resume.next.pt"
"""The same while ``last.pt`` is being replaced."""


def begin_epoch(trainer: BaseTrainer) -> None:
    """Sets all random states, and the order of the data, from the seed and the epoch alone.

    So an epoch is the same whether the run came there straight or was resumed. With worker processes
    (``workers`` > 0) the order of the data and the augmentation are the workers' own, and this holds for the rest.
    """
    seed = epoch_seed(trainer.args.seed, trainer.epoch)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - Ultralytics draws from it
    torch.manual_seed(seed)  # albumentations follows: Ultralytics seeds it anew when torch's seed changes
    loader = trainer.train_loader
    if loader.num_workers == 0 and trainer.world_size <= 1:
        loader.reset()
        loader.generator.manual_seed(seed)


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Restores the random states of Python, NumPy and torch (CPU and current device) at the end of the block."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 - Ultralytics draws from it
    device_state = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
        if device_state is not None:
            torch.cuda.set_rng_state(device_state)


def capture(trainer: BaseTrainer, batches_since_step: int) -> dict[str, Any]:
    """Returns the state at the end of an epoch: tensors, numbers, strings, lists and dictionaries only.

    Args:
        trainer: At an epoch boundary.
        batches_since_step: How many batches' gradients wait for the next optimizer step (gradient accumulation).
    """
    model = unwrap_model(trainer.model)
    waiting = batches_since_step > 0
    dataset = trainer.train_loader.dataset
    return {
        "version": VERSION,
        "epoch": trainer.epoch,
        "model": model.state_dict(),
        "ema": trainer.ema.ema.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "batches_since_step": batches_since_step,
        "gradients": {n: p.grad for n, p in model.named_parameters() if waiting and p.grad is not None},
        "mosaic_buffer": [int(index) for index in getattr(dataset, "buffer", ())],
    }


def restore(trainer: BaseTrainer, state: dict[str, Any]) -> None:
    """Puts back what `capture` took, into a trainer whose model, averaged model and optimizer are built alike."""
    unwrap_model(trainer.model).load_state_dict(state["model"])
    trainer.ema.ema.load_state_dict(state["ema"])
    for saved, group in zip(state["optimizer"]["param_groups"], trainer.optimizer.param_groups, strict=True):
        saved["fused"] = group.get("fused")  # the device of this run picks the kernel
    trainer.optimizer.load_state_dict(state["optimizer"])
    dataset = trainer.train_loader.dataset
    if getattr(dataset, "buffer", None) == [] and trainer.train_loader.num_workers == 0:
        for index in state["mosaic_buffer"]:
            dataset.load_image(index)  # fills the buffer in the same order


def restore_gradients(trainer: BaseTrainer, state: dict[str, Any]) -> None:
    """Puts back the gradients that wait for a step; Ultralytics clears them once more before its first epoch."""
    parameters = dict(unwrap_model(trainer.model).named_parameters())
    for name, gradient in state["gradients"].items():
        parameters[name].grad = gradient.to(parameters[name].device)


def write_next(last: Path, checkpoint_sha256: str, state: dict[str, Any]) -> None:
    """Writes the sidecar of a checkpoint that is about to become ``last``."""
    buffer = io.BytesIO()
    torch.save({**state, "checkpoint_sha256": checkpoint_sha256}, buffer)
    files.write_bytes(last.with_name(_NEXT), buffer.getvalue())


def promote(last: Path) -> None:
    """Lets the newest sidecar take the old one's place, ``last`` being the checkpoint it belongs to by now."""
    os.replace(last.with_name(_NEXT), last.with_name(NAME))


def remove(last: Path) -> None:
    """Deletes the sidecars: the run is finished."""
    for name in (NAME, _NEXT):
        last.with_name(name).unlink(missing_ok=True)


def read(last: Path) -> dict[str, Any] | None:
    """Returns the sidecar's state that belongs to ``last``, or None where there is none."""
    present = [path for name in (NAME, _NEXT) if (path := last.with_name(name)).is_file()]
    if not present:
        return None
    digest = files.sha256(last)
    for path in present:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception:  # a damaged file raises whatever its bytes make torch raise
            continue
        if isinstance(state, dict) and (state.get("version"), state.get("checkpoint_sha256")) == (VERSION, digest):
            return state
    return None


def rewrite_results(table: Path, results: dict[str, list[Any]]) -> None:
    """Writes ``results.csv`` as it was at a checkpoint: without later epochs, and whole if the file was damaged.

    Args:
        table: Ultralytics' table.
        results: The checkpoint's ``train_results``, values by column.
    """
    if results:
        rows = [",".join(_cell(value) for value in row) for row in zip(*results.values(), strict=True)]
        files.write_text(table, "\n".join([",".join(results), *rows]) + "\n")


def _cell(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, (int, float)) else str(value or "")  # Ultralytics' format
