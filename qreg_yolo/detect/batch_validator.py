"""Detectors to measure, their validation by Ultralytics one batch at a time, and mAP by pycocotools."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from ultralytics.nn.autobackend import AutoBackend
from ultralytics.utils import LOGGER
from ultralytics.utils.ops import xywhn2xyxy

from qreg_yolo.datasets.classes import ClassMap, class_map, class_names, match_classes
from qreg_yolo.detect.checkpoint import load_weights, quantization_warning
from qreg_yolo.detect.data_check import ImageSet
from qreg_yolo.detect.outputs import identity
from qreg_yolo.detect.validator import QuantDetectionValidator
from qreg_yolo.detect.views import View, ViewKey
from qreg_yolo.errors import WeightsError
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.metrics.image_statistics import THRESHOLDS
from qreg_yolo.robustness.journal import Rows
from qreg_yolo.robustness.measure import MeasuredModel, check_distinct

DETECTION = np.dtype([("image", "<i4"), ("confidence", "<f4"), ("category", "<i4"), ("hits", "<u2")])
"""One detection: index of its image, confidence, class, and a bit per IoU threshold (`image_statistics`)."""
BOXED = np.dtype([*DETECTION.descr, ("box", "<f4", (4,))])
"""A detection with its box, xyxy in px of the original image."""


@dataclass(frozen=True)
class Detector(MeasuredModel):
    """A loaded and checked checkpoint of a detector."""

    trained: dict[str, Any]
    """Arguments of the training."""
    imgsz: int
    """Px."""

    @property
    def single_cls(self) -> bool:
        """Whether it was trained on a single class."""
        return bool(self.trained.get("single_cls"))

    @property
    def view(self) -> ViewKey:
        """Key of its view of the images."""
        return ViewKey(self.imgsz, max(int(self.model.stride.max()), 32))

    @property
    def batch(self) -> int:
        """Images per batch in ``val``."""
        batch = self.trained.get("batch")
        return 2 * batch if isinstance(batch, int) and batch >= 1 else 16


def load_detectors(weights: Sequence[Path], imgsz: int | None) -> list[Detector]:
    """Returns the models of checkpoints; warns of lost quantization.

    Raises:
        FileNotFoundError, WeightsError: As `load_weights`.
        ConfigError: The same weights twice, ``single_cls`` of some models only, or an image size that is not a multiple
            of the stride.
    """
    found: list[Detector] = []
    for path in weights:
        model, stored = load_weights(path)
        trained = dict(stored.get("train_args") or {})
        size = imgsz if imgsz is not None else trained.get("imgsz", 640)
        fields = {**identity(path, model.yaml, int(trained.get("seed", 0))), "precision": "fp32"}
        one = Detector(path, model, fields, trained, max(size) if isinstance(size, (list, tuple)) else int(size))
        if one.imgsz < 32 or one.imgsz % one.view.stride:
            raise ConfigError(f"imgsz={one.imgsz} is not a multiple of {one.view.stride}, the stride of '{path}'.")
        found.append(one)
        if one.single_cls != found[0].single_cls:
            raise ConfigError(f"Only one of '{found[0].weights}' and '{path}' has single_cls. Measure them apart.")
        if warning := quantization_warning(model):
            LOGGER.warning(f"{path}: {warning}")
    check_distinct(found)
    return found


def classes_of(detector: Detector, images: ImageSet, given: str | None = None) -> ClassMap | None:
    """Returns the map from a model's classes to the data's; None if they agree, or with a single class.

    Args:
        detector: The model.
        images: The data.
        given: A class map (`class_map`); None: classes match by name.

    Raises:
        ConfigError: A map that does not fit.
        WeightsError: Classes that only the model or only the data has.
    """
    names, wanted = class_names(detector.model.names), class_names(images.names)
    if (outputs := getattr(detector.model.model[-1], "nc", len(names))) != len(names):
        raise WeightsError(f"'{detector.weights}' names {len(names)} classes and detects {outputs}: it is damaged.")
    if detector.single_cls:
        return None
    if given is not None:
        return class_map(given, wanted, names)
    return match_classes(wanted, names, detector.weights, images.yaml)


class BatchValidator(QuantDetectionValidator):
    """Ultralytics' validation of one model, one batch at a time.

    Args:
        detector: The model.
        view: Its view of the images.
        images: The images and their labels.
        folder: An existing folder (Ultralytics requires one; nothing is written there).
        device: The device to compute on.
        boxed: Whether to keep the boxes.
        classes: As `classes_of` returns.
    """

    def __init__(
        self,
        detector: Detector,
        view: View,
        images: ImageSet,
        folder: Path,
        device: torch.device,
        boxed: bool,
        classes: ClassMap | None = None,
    ) -> None:
        arguments = {
            "mode": "val", "task": "detect", "imgsz": detector.imgsz, "rect": True, "plots": False,
            "split": images.split, "batch": view.batch_size, "single_cls": detector.single_cls, "verbose": False,
        }  # fmt: skip
        if detector.trained.get("nms") is False:  # the branch of an end-to-end head that training measured
            arguments["nms"] = False
        super().__init__(save_dir=folder, args=arguments, classes=classes)
        self.training, self.device, self.boxed = False, device, boxed
        self.data = {"names": images.names, "nc": len(images.names), "channels": images.channels}
        self.dataloader = SimpleNamespace(dataset=view)
        self.order = view.order
        self.backend = AutoBackend(
            model=detector.model, device=device, fp16=False, end2end=self.args.nms is False, verbose=False
        )
        self.args.quantize = None
        self.backend.eval()
        self.backend.warmup(imgsz=(1, images.channels, detector.imgsz, detector.imgsz))
        self.init_metrics(self.backend)

    @torch.inference_mode()
    def detections(self, batch: dict[str, Any], first: int) -> Rows:
        """Returns the detections on a preprocessed batch; ``first`` is its first image in Ultralytics' order."""
        predictions = self.postprocess(self.backend(batch["img"]))
        return np.concatenate([self._matched(si, one, batch, first + si) for si, one in enumerate(predictions)])

    def _matched(self, si: int, prediction: dict[str, Any], batch: dict[str, Any], position: int) -> Rows:
        truth = self._prepare_batch(si, batch)
        prediction = self._prepare_pred(prediction)
        found = np.empty(len(prediction["cls"]), BOXED if self.boxed else DETECTION)
        found["image"] = self.order[position]
        found["confidence"] = prediction["conf"].cpu().numpy()
        found["category"] = prediction["cls"].cpu().numpy()
        found["hits"] = self._process_batch(prediction, truth)["tp"] @ (1 << np.arange(THRESHOLDS))
        if self.boxed:
            found["box"] = self.scale_preds(prediction, truth)["bboxes"].cpu().numpy()
        return found


def coco_map(detections: Rows, images: ImageSet, n_classes: int) -> float:
    """Returns COCO's mAP (0..1) at IoU 0.50 to 0.95, of all sizes and all detections; nan without objects.

    Unlike Ultralytics, COCO samples the curve without the trapezoidal rule, and matches boxes in the original image
    instead of the padded one.

    Args:
        detections: Detections with boxes.
        images: The images and their labels.
        n_classes: Classes of the data; 1: a single class.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        truth = COCO()
        truth.dataset = _truth(images, n_classes)
        truth.createIndex()
        if not truth.anns:
            return math.nan
        if not len(detections):
            return 0.0
        low, high = detections["box"][:, :2], detections["box"][:, 2:]
        rows = np.column_stack(
            [detections["image"], low, high - low, detections["confidence"], detections["category"]]
        ).astype(np.float64)
        evaluation = COCOeval(truth, truth.loadRes(rows), "bbox")
        evaluation.params.maxDets = [int(np.bincount(detections["image"]).max())]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"]
    counted = precision[precision > -1]
    return float(counted.mean()) if counted.size else math.nan


def _truth(images: ImageSet, n_classes: int) -> dict[str, Any]:
    boxes: list[dict[str, Any]] = []
    for number, label in enumerate(images.labels):
        height, width = label["shape"]
        for category, corners in zip(label["cls"][:, 0], xywhn2xyxy(label["bboxes"], width, height), strict=True):
            x, y, right, bottom = (float(value) for value in corners)
            size = (right - x, bottom - y)
            boxes.append(
                {
                    "id": len(boxes) + 1, "image_id": number, "category_id": int(category) * (n_classes > 1),
                    "bbox": [x, y, *size], "area": size[0] * size[1], "iscrowd": 0,
                }
            )  # fmt: skip
    return {
        "images": [{"id": number} for number in range(len(images.labels))],
        "annotations": boxes,
        "categories": [{"id": number} for number in range(n_classes)],
        "info": {},
    }
