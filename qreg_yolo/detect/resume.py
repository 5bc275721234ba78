"""Safe checkpoints and resuming bit for bit: a sidecar of ``last.pt`` has what Ultralytics rounds or drops.

Ultralytics restarts from the averaged weights, and rounds momentum to half precision. The sidecar has the live and the
averaged weights, the optimizer, and the images in memory for the mosaic augmentation. It needs no random states:
`begin_epoch` derives them from the seed and the epoch.

A sidecar identifies its checkpoint by hash. The new one is complete before ``last.pt`` is replaced, and replaces the
old one afterwards, so that a kill at any moment leaves a matching pair.
"""

from __future__ import annotations

import io
import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ultralytics.cfg import get_cfg
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.utils import DEFAULT_CFG_DICT
from ultralytics.utils.torch_utils import unwrap_model

from qreg_yolo.config.distillation import KEY as DISTILL
from qreg_yolo.detect.checkpoint import strip_checkpoint
from qreg_yolo.detect.preflight import RESUMABLE
from qreg_yolo.errors import FileAccessError
from qreg_yolo.io import files
from qreg_yolo.training.environment import epoch_seed

VERSION = 1
NAME = "last.resume.pt"
"""The sidecar of ``last.pt``."""
EXTENSIONS = "extensions"
"""Key of the state of the trainer's extensions; absent without any."""
_NEXT = "last.resume.next.pt"
"""The pending sidecar while ``last.pt`` is replaced."""


def begin_epoch(trainer: BaseTrainer) -> None:
    """Derives all random states and the order of the data from the seed and the epoch.

    So an epoch of a resumed run equals that of an uninterrupted one. With worker processes (``workers`` > 0), the
    workers determine the order of the data and the augmentation.
    """
    seed = epoch_seed(trainer.args.seed, trainer.epoch)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - Ultralytics draws from it
    torch.manual_seed(seed)  # Ultralytics then seeds albumentations too
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
        trainer: A trainer at an epoch boundary.
        batches_since_step: Batches with gradients accumulated for the next optimizer step.
    """
    model, distiller = unwrap_model(trainer.model), trainer.distiller
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
        **({} if distiller is None else {DISTILL: distiller.state(waiting=waiting)}),
        **({EXTENSIONS: extensions} if (extensions := trainer.extensions.state()) else {}),
        **({"epoch_zero": trainer.zero.to_dict()} if trainer.zero is not None else {}),
    }


def restore_arguments(trainer: BaseTrainer, trained: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
    """Restores the arguments of a checkpoint in a trainer, except those that may change in a resumed run.

    Args:
        trainer: A trainer that is about to resume.
        trained: Arguments in the checkpoint.
        overrides: Arguments of this run.
    """
    last, data = trainer.args.resume, trainer.args.data
    trainer.args = get_cfg({**DEFAULT_CFG_DICT, **trained, "data": data, "model": last, "resume": last})
    for key, value in overrides.items():
        if key in RESUMABLE or key == "save_dir":
            setattr(trainer.args, key, value)
    trainer.resume = True


def restore(trainer: BaseTrainer, state: dict[str, Any]) -> None:
    """Restores the result of `capture` in a trainer with the same model and optimizer."""
    unwrap_model(trainer.model).load_state_dict(state["model"])
    trainer.ema.ema.load_state_dict(state["ema"])
    for saved, group in zip(state["optimizer"]["param_groups"], trainer.optimizer.param_groups, strict=True):
        saved["fused"] = group.get("fused")  # the device of this run picks the kernel
    trainer.optimizer.load_state_dict(state["optimizer"])
    trainer.extensions.restore(state.get(EXTENSIONS, {}))
    dataset = trainer.train_loader.dataset
    if getattr(dataset, "buffer", None) == [] and trainer.train_loader.num_workers == 0:
        for index in state["mosaic_buffer"]:
            dataset.load_image(index)  # fills the buffer in the same order
    if trainer.distiller is not None:
        trainer.distiller.restore(state[DISTILL])


def restore_gradients(trainer: BaseTrainer, state: dict[str, Any]) -> None:
    """Restores accumulated gradients, after Ultralytics has cleared them before its first epoch."""
    parameters = dict(unwrap_model(trainer.model).named_parameters())
    for name, gradient in state["gradients"].items():
        parameters[name].grad = gradient.to(parameters[name].device)
    if trainer.distiller is not None:
        trainer.distiller.restore_gradients(state[DISTILL])


def save_checkpoints(trainer: BaseTrainer, save: Callable[[], bool], batches_since_step: int) -> bool:
    """Saves an epoch's checkpoints and the sidecar; each file is replaced atomically.

    Args:
        trainer: A trainer at an epoch boundary.
        save: Ultralytics' ``save_model``, which writes into its files in place.
        batches_since_step: As `capture`.

    Returns:
        The result of ``save``.

    Raises:
        OSError: A full disk or an unwritable folder; the checkpoints of the previous epoch are intact.
    """
    final: dict[str, Path] = {"last": trainer.last, "best": trainer.best}
    partial = {name: path.with_name(f".{path.name}.tmp") for name, path in final.items()}
    trainer.last, trainer.best = partial["last"], partial["best"]
    try:
        saved = save()
        write_next(final["last"], files.sha256(partial["last"]), capture(trainer, batches_since_step))
        for name, path in partial.items():
            if path.exists():
                files.replace(path, final[name])
        promote(final["last"])
    except OSError as error:
        raise FileAccessError(
            f"The checkpoint of epoch {trainer.epoch + 1} could not be written to '{trainer.wdir}': {error.strerror}. "
            f"Make room there. {files.what_is_kept(final['last'])}"
        ) from error
    finally:
        trainer.last, trainer.best = final["last"], final["best"]
        for path in partial.values():
            path.unlink(missing_ok=True)
    return saved


def write_next(last: Path, checkpoint_sha256: str, state: dict[str, Any]) -> None:
    """Writes the pending sidecar of a checkpoint that will become ``last``."""
    buffer = io.BytesIO()
    torch.save({**state, "checkpoint_sha256": checkpoint_sha256}, buffer)
    files.write_bytes(last.with_name(_NEXT), buffer.getvalue())


def promote(last: Path) -> None:
    """Renames the pending sidecar to its final name, once `last` has been replaced."""
    os.replace(last.with_name(_NEXT), last.with_name(NAME))


def conclude(last: Path, best: Path) -> None:
    """Removes what only resuming needs from a finished run: from its checkpoints, atomically, and the sidecars."""
    for name in (NAME, _NEXT):  # first: a study takes a checkpoint with its sidecar for one to resume
        last.with_name(name).unlink(missing_ok=True)
    stripped = strip_checkpoint(last)
    strip_checkpoint(best, {"train_results": stripped.get("train_results")})


def read(last: Path) -> dict[str, Any] | None:
    """Returns the state in the sidecar of ``last``; None without a matching one."""
    present = [path for name in (NAME, _NEXT) if (path := last.with_name(name)).is_file()]
    if not present:
        return None
    digest = files.sha256(last)
    for path in present:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception:  # torch raises many kinds of errors on damaged files
            continue
        if isinstance(state, dict) and (state.get("version"), state.get("checkpoint_sha256")) == (VERSION, digest):
            return state
    return None


def is_trained(checkpoint: Mapping[str, Any], epochs: int) -> bool:
    """Returns whether a checkpoint is of the last epoch of its run."""
    return int(checkpoint.get("epoch", -1)) + 1 >= epochs


def rewrite_results(table: Path, results: dict[str, list[Any]]) -> None:
    """Restores ``results.csv`` from a checkpoint's ``train_results`` (column -> values), without later epochs."""
    if results:
        rows = [",".join(_cell(value) for value in row) for row in zip(*results.values(), strict=True)]
        files.write_text(table, "\n".join([",".join(results), *rows]) + "\n")


def _cell(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, (int, float)) else str(value or "")  # Ultralytics' format
