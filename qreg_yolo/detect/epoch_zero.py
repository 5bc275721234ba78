"""Accuracy of a quantized network before its training: epoch 0."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import LOGGER, RANK

from qreg_yolo.detect.checkpoint import Start
from qreg_yolo.detect.resume import preserved_random_state
from qreg_yolo.detect.yolov5_weights import YOLOv5Weights
from qreg_yolo.io import files
from qreg_yolo.io.records import recorded
from qreg_yolo.quant.base import Quantizer
from qreg_yolo.quant.calibration import quantizers_off
from qreg_yolo.training.epoch_zero import EpochZero, comparison, digest_of

MAP = "metrics/mAP50-95(B)"
"""Ultralytics' column of the accuracy that is printed."""


def comes_from(model: nn.Module, start: Start | None) -> bool:
    """Returns whether every tensor of a network but those of its quantizers has the value that ``start`` has."""
    if start is None:
        return False
    own = _float_state(model)
    given: Mapping[str, torch.Tensor]
    given = start.fitting(own) if isinstance(start, YOLOv5Weights) else _float_state(start)
    fixed = ("anchor_wh", "num_batches_tracked")  # not in YOLOv5 weights
    return all(
        name in given and tensor.shape == given[name].shape and torch.equal(tensor, given[name].to(tensor))
        for name, tensor in own.items()
        if not (isinstance(start, YOLOv5Weights) and name.endswith(fixed))
    )


def _float_state(model: nn.Module) -> dict[str, torch.Tensor]:
    own = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, Quantizer))
    return {name: tensor for name, tensor in model.state_dict().items() if not (own and name.startswith(own))}


def measure(trainer: BaseTrainer, start: Path) -> EpochZero | None:
    """Validates the averaged network before its first step, prints its accuracy beside the baseline's, and returns it.

    Args:
        trainer: After its set-up; its random states stay as they are.
        start: The checkpoint that all tensors come from.

    Returns:
        None in other processes than the first.
    """
    model = trainer.ema.ema
    with preserved_random_state(), _before_the_first_epoch(trainer, model):
        metrics = trainer.validator(trainer)
        if metrics is None:
            return None
        metrics.pop("fitness", None)
        where = {"data": Path(str(trainer.args.data)).stem, "split": "val", "evaluation": trainer.validator.evaluation}
        baseline = recorded(start, "map50_95", **where)
        if baseline is None:
            with quantizers_off(model):
                baseline = float(trainer.validator(trainer)[MAP])
    if RANK in {-1, 0}:
        LOGGER.info(comparison("mAP50-95", baseline, float(metrics[MAP])))
    return EpochZero({name: float(value) for name, value in metrics.items()}, digest_of(model))


@contextmanager
def _before_the_first_epoch(trainer: BaseTrainer, model: DetectionModel) -> Iterator[None]:
    """Gives the trainer what its validator reads: an epoch, and the names of the losses."""
    data = trainer.test_loader.dataset
    batch = trainer.preprocess_batch(data.collate_fn([data[0]]))
    trainer.epoch = -1
    with torch.no_grad():
        trainer.loss_items = model.loss(batch)[1]
    try:
        yield
    finally:
        trainer.loss_items = None


def add_row(results: Path, columns: list[str], zero: EpochZero) -> None:
    """Begins a new ``results.csv`` with its headings and the row of epoch 0."""
    files.write_text(results, f"{','.join(columns)}\n{zero.row(columns)}\n")
