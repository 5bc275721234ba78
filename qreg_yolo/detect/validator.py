"""Validation and prediction on quantized models: the host's, with the threads and workers that the user asked for."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from ultralytics.models.yolo.detect import DetectionPredictor, DetectionValidator

from qreg_yolo.detect.class_map import ClassMap
from qreg_yolo.detect.compat import restore_threads
from qreg_yolo.strict_yaml import ConfigError

_NMS_SECONDS, _NMS_SECONDS_PER_IMAGE = 2.0, 0.05
"""The host's NMS stops when a batch has taken longer than their sum, whatever is left."""


class QuantDetectionValidator(DetectionValidator):
    """`DetectionValidator` on every core (the host's ``select_device`` leaves one out).

    Args:
        dataloader: The host's, as the next three.
        save_dir: Where results go.
        args: The host's arguments.
        _callbacks: By event.
        classes: Which of the model's classes are those of the data; None: they are the same.
    """

    def __init__(
        self,
        dataloader: Any = None,
        save_dir: Any = None,
        args: Any = None,
        _callbacks: dict[str, Any] | None = None,
        classes: ClassMap | None = None,
    ) -> None:
        super().__init__(dataloader, save_dir, args, _callbacks)
        self._classes = classes
        self._workers = args.get("workers") if isinstance(args, dict) else None

    def init_metrics(self, model: nn.Module) -> None:
        restore_threads()  # the first hook after select_device, in training and alone
        if self._classes is None:
            super().init_metrics(model)
            return
        if getattr(model, "end2end", False):
            raise ConfigError(
                "A class map does not go with nms=false, which gives one class per box. Drop one of them."
            )
        super().init_metrics(SimpleNamespace(names=dict(enumerate(self._classes.names))))

    def postprocess(self, preds: Any) -> Any:
        """Returns the host's NMS, image by image where it ran into the host's time limit and left images out.

        Where classes are mapped it is done on those of the data alone.

        Args:
            preds: ``(images, 4 + classes, places)``, boxes as centre and size in px; may come first in a tuple. From an
                end-to-end head ``(images, boxes, 6)``.
        """
        whole = preds[0] if isinstance(preds, (list, tuple)) else preds
        if self._classes is not None:
            rows = [*range(4), *(4 + row for row in self._classes.rows)]
            whole = whole[:, torch.tensor(rows, device=whole.device)]
        start = time.time()  # the host's clock: it may jump, as after a machine was suspended
        found = super().postprocess(whole)
        if time.time() - start <= _NMS_SECONDS + _NMS_SECONDS_PER_IMAGE * len(whole):
            return found
        return [one for image in whole.split(1) for one in super(QuantDetectionValidator, self).postprocess(image)]

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
