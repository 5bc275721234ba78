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
        """Validates; batch and ``nms`` default to those of validation in training, so that the numbers agree.

        Images of a batch are padded to one shape: another batch changes mAP in the fourth digit. ``nms`` picks the
        branch of an end-to-end head.
        """
        trained = self._training_arguments()
        batch = trained.get("batch")
        if isinstance(batch, int) and batch >= 1:
            kwargs.setdefault("batch", 2 * batch)
        return super().val(validator, **{**_branch(trained), **kwargs})

    def predict(self, source: Any = None, stream: bool = False, predictor: Any = None, **kwargs: Any) -> Any:
        """Predicts; ``nms`` defaults to the training's, so that the branch that was validated draws the boxes."""
        return super().predict(source, stream, predictor, **{**_branch(self._training_arguments()), **kwargs})

    def _training_arguments(self) -> dict[str, Any]:
        if not isinstance(self.model, QuantDetectionModel):
            return {}
        arguments: dict[str, Any] = (self.ckpt or {}).get("train_args", {})
        return arguments


def _branch(trained: dict[str, Any]) -> dict[str, Any]:
    """Returns ``nms=False`` where training measured the one-to-one branch of an end-to-end head."""
    return {"nms": False} if trained.get("nms") is False else {}
