"""Calibration of a detector on augmented training images: before its training, and where a stage changes widths."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from torch import nn
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.utils import LOGGER
from ultralytics.utils.checks import check_imgsz
from ultralytics.utils.patches import override_configs
from ultralytics.utils.torch_utils import unwrap_model

from qreg_yolo.detect.model import QuantDetectionModel
from qreg_yolo.detect.policy import frozen_norms
from qreg_yolo.detect.quantization_config import QuantizationConfig
from qreg_yolo.detect.resume import preserved_random_state
from qreg_yolo.quant.calibration import calibrate
from qreg_yolo.training.staging import Staging

CALIBRATION_IMAGES = 64
"""Training images (augmented as in training) that set the input ranges; at least one batch."""


def calibrate_detector(trainer: BaseTrainer, model: QuantDetectionModel, *, record: bool = True) -> int:
    """Sets the ranges of a detector's quantizers that have none, records them in its YAML, and logs it.

    Args:
        trainer: A trainer with its data, which are drawn as in training; its random states stay as they are.
        model: Its model, not wrapped.
        record: Whether to record the plan; not in a stage, where the widths are others.

    Returns:
        Number of quantizers that were calibrated.
    """
    seen = 0

    def forward(net: nn.Module, batch: dict[str, Any]) -> None:
        nonlocal seen
        images = trainer.preprocess_batch(batch)["img"]
        seen += len(images)
        net(images)

    with preserved_random_state():  # the fp32 baseline must see the same data in the same order
        frozen = frozen_norms(model, trainer.args.freeze)
        report = calibrate(model, _batches(trainer, model), forward=forward, frozen=frozen)
    if record:
        model.record_plan(report.unreached)
    if report.initialized:
        LOGGER.info(f"Calibrated {report.initialized} quantizers on {seen} augmented training images")
    if report.unreached:
        LOGGER.warning(str(report))
    return report.initialized


def enter_stage(trainer: BaseTrainer, staging: Staging | None) -> Staging:
    """Sets the widths of the epoch that begins; best.pt and patience count from the last stage on.

    Args:
        trainer: At the start of an epoch.
        staging: The result of the epoch before; None: this is the first one of the process.
    """
    model, averaged = unwrap_model(trainer.model), trainer.ema.ema
    if staging is None:
        config = QuantizationConfig.of(model)
        staging = Staging(config.spec.stages, trainer.epochs, config.layers or {})
        if trainer.start_epoch:
            staging.resume(trainer.start_epoch - 1, model, averaged)
    begun = staging.enter(trainer.epoch, model, averaged, lambda: calibrate_detector(trainer, model, record=False))
    if begun is not None:
        LOGGER.info(begun)
        if staging.is_last:
            trainer.best_fitness, trainer.stopper.best_fitness = None, 0.0
    return staging


def _batches(trainer: BaseTrainer, model: QuantDetectionModel) -> Iterator[Any]:
    """Yields batches as training loads them, in this process and without a cache."""
    trainer.stride = max(int(model.stride.max()), 32)  # preprocess_batch reads it for multi_scale
    trainer.args.imgsz = check_imgsz(trainer.args.imgsz, stride=trainer.stride, floor=trainer.stride, max_dim=1)
    batch = max(int(trainer.batch_size), 1) if trainer.batch_size >= 1 else 16
    with override_configs(trainer.args, {"cache": False, "workers": 0}):
        loader = trainer.get_dataloader(trainer.data["train"], batch_size=batch, rank=-1, mode="train")
    yield from islice(loader, max(CALIBRATION_IMAGES // batch, 1))
