"""Validation and prediction on quantized models: the host's, with the threads and workers that the user asked for."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.utils.data import DataLoader
from ultralytics.models.yolo.detect import DetectionPredictor, DetectionValidator

from qreg_yolo.detect.compat import restore_threads


class QuantDetectionValidator(DetectionValidator):
    """`DetectionValidator` on every core (the host's ``select_device`` leaves one out)."""

    def __init__(
        self, dataloader: Any = None, save_dir: Any = None, args: Any = None, _callbacks: dict[str, Any] | None = None
    ) -> None:
        super().__init__(dataloader, save_dir, args, _callbacks)
        self._workers = args.get("workers") if isinstance(args, dict) else None

    def init_metrics(self, model: nn.Module) -> None:
        restore_threads()  # the first hook after select_device, in training and alone
        super().init_metrics(model)

    def get_dataloader(self, dataset_path: str, batch_size: int) -> DataLoader[Any]:
        """Returns the host's loader, with the workers that were asked for (the host sets 0 on the CPU)."""
        if self._workers is not None:
            self.args.workers = self._workers
        loader: DataLoader[Any] = super().get_dataloader(dataset_path, batch_size)
        return loader


class QuantDetectionPredictor(DetectionPredictor):
    """`DetectionPredictor` on every core."""

    def setup_model(self, model: nn.Module, verbose: bool = True) -> None:
        super().setup_model(model, verbose)
        restore_threads()
