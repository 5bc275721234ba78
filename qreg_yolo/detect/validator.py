"""Ultralytics' validation and prediction for quantized models, with the requested threads and workers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from ultralytics.models.yolo.detect import DetectionPredictor, DetectionValidator

from qreg_yolo.datasets.classes import ClassMap, class_names, match_classes
from qreg_yolo.detect.compat import restore_threads
from qreg_yolo.detect.data_check import Label
from qreg_yolo.detect.dataset import DetectionDataset, build_dataset
from qreg_yolo.io.records import settings_text
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.quant.layers import weights_quantized_once
from qreg_yolo.training.environment import FP16, FP32

_NMS_SECONDS, _NMS_SECONDS_PER_IMAGE = 2.0, 0.05
"""Ultralytics' NMS stops after the first plus the second for each image of the batch."""


class QuantDetectionValidator(DetectionValidator):
    """`DetectionValidator` on every core (Ultralytics' ``select_device`` leaves one out).

    Args:
        dataloader: As in Ultralytics.
        save_dir: As in Ultralytics.
        args: As in Ultralytics.
        _callbacks: As in Ultralytics.
        classes: Map from the model's classes to the data's; None: they match by name.
        scanned: Image path -> label, for images that were read already.
    """

    def __init__(
        self,
        dataloader: Any = None,
        save_dir: Any = None,
        args: Any = None,
        _callbacks: dict[str, Any] | None = None,
        classes: ClassMap | None = None,
        scanned: Mapping[str, Label] | None = None,
    ) -> None:
        super().__init__(dataloader, save_dir, args, _callbacks)
        self._classes, self._scanned = classes, scanned
        self.evaluation_ends = ExitStack()
        """Closed when the measurement is over: until then each weight is quantized once."""
        self._workers = args.get("workers") if isinstance(args, dict) else None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self.evaluation_ends:
            return super().__call__(*args, **kwargs)

    def init_metrics(self, model: Any) -> None:
        """Sets the metrics up as Ultralytics does, for the classes of the data; the model may have another order.

        Raises:
            WeightsError: Outside training, the model's classes are not those of the data.
            ConfigError: A map to a part of the classes, with a head that gives one class per box.
        """
        restore_threads()  # the first hook after select_device, in training and alone
        self.evaluation_ends.enter_context(weights_quantized_once(model.model))
        if self._classes is None and not self.training and not self.args.single_cls:
            names, model_names = (class_names(one) for one in (self.data["names"], model.names))
            self._classes = match_classes(names, model_names, self.args.model, self.args.data)
        end2end = getattr(model, "end2end", False)
        if self._classes is None:
            super().init_metrics(model)
            return
        if end2end and len(self._classes.rows) != len(model.names):
            raise ConfigError(
                "A class map does not work with nms=false, which gives one class per box. Remove one of them."
            )
        renamed = SimpleNamespace(
            names=dict(enumerate(self._classes.names)), end2end=end2end, format=model.format, model=model.model
        )
        super().init_metrics(renamed)

    @property
    def n_objects(self) -> int:
        """Number of objects in the measured images."""
        return sum(len(label["cls"]) for label in self.dataloader.dataset.labels)

    @property
    def precision(self) -> str:
        """Arithmetic of the measurement; bfloat16 is used in training only."""
        return FP16 if self.args.quantize == 16 else FP32

    @property
    def evaluation(self) -> str:
        """Settings and counts of the measurement, for the records."""
        args, data = self.args, self.dataloader.dataset
        present = {float(number) for label in data.labels for number in label["cls"].ravel()}
        return settings_text(
            {
                "imgsz": data.imgsz, "rect": data.rect, **({"batch": data.batch_size} if data.rect else {}),
                "conf": args.conf, "iou": args.iou, "max_det": args.max_det, "half": args.quantize == 16,
                "augment": bool(args.augment) and not self.training, "agnostic_nms": args.agnostic_nms,
                "end2end": self.end2end, "classes": "all" if args.classes is None else args.classes,
                "single_cls": bool(args.single_cls), "fraction": data.fraction,
                "class_map": None if self._classes is None else self._classes.label,
                "objects": self.n_objects, "classes_present": len(present),
            }
        )  # fmt: skip

    def postprocess(self, preds: Any) -> Any:
        """Returns the result of Ultralytics' NMS, image by image if it exceeded its time limit and skipped images.

        With a class map, only the classes of the data are considered.

        Args:
            preds: ``(images, 4 + classes, places)``, boxes as centre and size in px; may come first in a tuple. From an
                end-to-end head ``(images, boxes, 6)``.
        """
        whole = preds[0] if isinstance(preds, (list, tuple)) else preds
        if self._classes is not None and self.end2end:
            numbers = torch.tensor(self._classes.rows, device=whole.device).argsort()  # of the model -> of the data
            whole = torch.cat([whole[..., :5], numbers[whole[..., 5:6].long()].to(whole.dtype), whole[..., 6:]], -1)
        elif self._classes is not None:
            rows = [*range(4), *(4 + row for row in self._classes.rows)]
            whole = whole[:, torch.tensor(rows, device=whole.device)]
        start = time.time()  # the clock of Ultralytics' limit; it jumps after a machine was suspended
        found = super().postprocess(whole)
        if time.time() - start <= _NMS_SECONDS + _NMS_SECONDS_PER_IMAGE * len(whole):
            return found
        return [one for image in whole.split(1) for one in super(QuantDetectionValidator, self).postprocess(image)]

    def build_dataset(self, img_path: str, mode: str = "val", batch: int | None = None) -> DetectionDataset:
        """Returns Ultralytics' dataset as a `DetectionDataset`."""
        return build_dataset(
            self.args, img_path, batch, self.data, mode=mode, rect=False, stride=self.stride, scanned=self._scanned
        )

    def get_dataloader(self, dataset_path: str, batch_size: int) -> DataLoader[Any]:
        """Returns Ultralytics' loader with the requested workers (Ultralytics sets 0 on the CPU)."""
        if self._workers is not None:
            self.args.workers = self._workers
        loader: DataLoader[Any] = super().get_dataloader(dataset_path, batch_size)
        return loader


class QuantDetectionPredictor(DetectionPredictor):
    """`DetectionPredictor` on every core."""

    def setup_model(self, model: nn.Module, verbose: bool = True) -> None:
        super().setup_model(model, verbose)
        restore_threads()
