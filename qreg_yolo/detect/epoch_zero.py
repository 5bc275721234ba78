"""Accuracy of a quantized network before its training: epoch 0."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import LOGGER, RANK

from qreg_yolo.detect.checkpoint import Start
from qreg_yolo.detect.resume import preserved_random_state
from qreg_yolo.detect.yolov5_weights import YOLOv5Weights
from qreg_yolo.io import files, records
from qreg_yolo.io.records import RecordsError
from qreg_yolo.quant.base import Quantizer
from qreg_yolo.quant.calibration import quantizers_off
from qreg_yolo.training.tensor_file import tensors_of

NAME = "epoch0"
"""Name in the run id of its record."""
MAP = "metrics/mAP50-95(B)"
"""Ultralytics' column of the accuracy that is printed."""
_LOST = 0.1
"""Share of the baseline's accuracy below which there is advice."""


@dataclass(frozen=True, kw_only=True)
class EpochZero:
    """The measurement: columns of ``results.csv`` without those of training, and the hash of the network's tensors."""

    metrics: dict[str, float]
    weights_sha256: str

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for the sidecar."""
        return asdict(self)


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
        baseline = _recorded(start, trainer.validator.evaluation)
        if baseline is None:
            with quantizers_off(model):
                baseline = float(trainer.validator(trainer)[MAP])
    if RANK in {-1, 0}:
        LOGGER.info(_line(baseline, float(metrics[MAP])))
    digest = hashlib.sha256(save(tensors_of(model))).hexdigest()
    return EpochZero(metrics={name: float(value) for name, value in metrics.items()}, weights_sha256=digest)


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


def _recorded(checkpoint: Path, evaluation: str) -> float | None:
    """Returns mAP50-95 of a checkpoint from its run's own records, if its hash and the settings are the same."""
    table = checkpoint.absolute().parent.parent / records.FILE
    if not table.is_file():
        return None
    try:
        rows = records.read(table).rows(named=True)
    except (OSError, RecordsError):
        return None
    digest = files.sha256(checkpoint)
    wanted = {"weights_sha256": digest, "metric": "map50_95", "evaluation": evaluation, "corruption": None}
    found = [row["value"] for row in rows if all(row[name] == value for name, value in wanted.items())]
    return float(found[-1]) if found else None


def _line(baseline: float, quantized: float) -> str:
    line = f"mAP50-95: fp32 {baseline:.3f}, quantized before training {quantized:.3f}"
    if quantized >= _LOST * baseline:
        return line
    return (
        f"{line}. Little is left: at 4 bits and below training has to win it back. If it does not, use more bits, "
        "--method lsq+ or --per-channel."
    )


def add_row(results: Path, columns: list[str], zero: EpochZero) -> None:
    """Begins a new ``results.csv`` with its headings and the row of epoch 0, whose training columns are empty."""
    cells = {"epoch": "0", "time": "0", **{name: f"{value:.6g}" for name, value in zero.metrics.items()}}
    row = ",".join(cells.get(column, "") for column in columns)
    files.write_text(results, f"{','.join(columns)}\n{row}\n")
