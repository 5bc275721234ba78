"""The user's entry: `ultralytics.YOLO` with our classes behind it."""

from __future__ import annotations

from typing import Any

from ultralytics import YOLO

from qreg_yolo.detect.model import QuantDetectionModel
from qreg_yolo.detect.trainer import QuantDetectionTrainer
from qreg_yolo.detect.validator import QuantDetectionPredictor, QuantDetectionValidator


class QuantYOLO(YOLO):
    """`ultralytics.YOLO` for quantized detectors.

    >>> model = QuantYOLO("yolov5n.yaml")  # doctest: +SKIP
    >>> model.train(data="voc.yaml", qreg=dict(bits=4, method="lsq"))  # doctest: +SKIP
    >>> QuantYOLO("runs/train/weights/best.pt").val()  # doctest: +SKIP
    """

    @property
    def task_map(self) -> dict[str, dict[str, Any]]:
        """The host's map with the detection classes replaced."""
        return {
            **super().task_map,
            "detect": {
                "model": QuantDetectionModel,
                "trainer": QuantDetectionTrainer,
                "validator": QuantDetectionValidator,
                "predictor": QuantDetectionPredictor,
            },
        }

    def val(self, validator: Any = None, **kwargs: Any) -> Any:
        """Validates; the batch defaults to the one of validation in training, so that the numbers agree.

        Images of a batch are padded to one shape: another batch changes mAP in the fourth digit.
        """
        batch = (self.ckpt or {}).get("train_args", {}).get("batch")
        if isinstance(batch, int) and batch >= 1 and isinstance(self.model, QuantDetectionModel):
            kwargs.setdefault("batch", 2 * batch)
        return super().val(validator, **kwargs)
