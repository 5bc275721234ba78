"""Ultralytics' validation of a detector one batch at a time, and mAP by pycocotools."""

from __future__ import annotations

import contextlib
import io
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from ultralytics.nn.autobackend import AutoBackend
from ultralytics.utils.ops import xywhn2xyxy

from qreg_yolo.datasets.classes import ClassMap
from qreg_yolo.detect.data_check import ImageSet
from qreg_yolo.detect.detectors import Detector
from qreg_yolo.detect.validator import QuantDetectionValidator
from qreg_yolo.detect.views import View
from qreg_yolo.metrics.image_statistics import THRESHOLDS
from qreg_yolo.robustness.journal import Rows

DETECTION = np.dtype([("image", "<i4"), ("confidence", "<f4"), ("category", "<i4"), ("hits", "<u2")])
"""One detection: index of its image, confidence, class, and a bit per IoU threshold (`image_statistics`)."""
BOXED = np.dtype([*DETECTION.descr, ("box", "<f4", (4,))])
"""A detection with its box, xyxy in px of the original image."""


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
