"""A second opinion on mAP: pycocotools on the same boxes."""

from __future__ import annotations

import contextlib
import io
import math
from typing import Any

import numpy as np
from ultralytics.utils.ops import xywhn2xyxy

from qreg_yolo.detect.data_check import ImageSet
from qreg_yolo.detect.robust.models import Detections


def coco_map(detections: Detections, images: ImageSet, n_classes: int) -> float:
    """Returns COCO's mAP (0..1) at IoU 0.50 to 0.95, all sizes, every detection counted; nan without objects.

    It differs from the host's by its rules alone: it samples the curve without the trapezoidal rule, and matches in the
    original image instead of the padded one.

    Args:
        detections: With boxes.
        images: The images and their labels.
        n_classes: Classes of the data; 1: all objects are of one.
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
        most = int(np.bincount(detections["image"]).max())
        evaluation.params.maxDets = [most]
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
