"""The public entry: `ultralytics.YOLO` with quantized detectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from ultralytics import YOLO

from qreg_yolo.detect.checkpoint import load_weights
from qreg_yolo.detect.compat import as_a_library, refuse_unsupported
from qreg_yolo.detect.model import QuantDetectionModel, refuse_export
from qreg_yolo.detect.trainer import QuantDetectionTrainer
from qreg_yolo.detect.validator import QuantDetectionPredictor, QuantDetectionValidator
from qreg_yolo.training.tensor_file import SUFFIX


class QuantYOLO(YOLO):
    """`ultralytics.YOLO` for quantized detectors.

    >>> model = QuantYOLO("yolov5n.yaml")  # doctest: +SKIP
    >>> model.train(data="voc.yaml", qreg=dict(bits=4, method="lsq"))  # doctest: +SKIP
    >>> QuantYOLO("runs/train/weights/best.pt").val()  # doctest: +SKIP
    """

    @property
    def task_map(self) -> dict[str, dict[str, Any]]:
        """Ultralytics' map with our classes for detection."""
        return {
            **super().task_map,
            "detect": {
                "model": QuantDetectionModel,
                "trainer": QuantDetectionTrainer,
                "validator": QuantDetectionValidator,
                "predictor": QuantDetectionPredictor,
            },
        }

    def _load(self, weights: str, task: str | None = None) -> None:
        """Loads a checkpoint without executing anything in it, and other formats as Ultralytics does."""
        path = Path(weights)
        if not path.is_file() or path.suffix not in (".pt", SUFFIX):
            super()._load(weights, task)
            return
        self.model, self.ckpt = load_weights(path)
        self.task = self.model.task
        self.overrides = self.model.args = self._reset_ckpt_args(self.model.args)
        self.overrides |= {"model": weights, "task": self.task}
        self.ckpt_path, self.model_name = self.model.pt_path, weights

    def train(self, trainer: Any = None, **kwargs: Any) -> Any:
        """Trains as Ultralytics does; ``pretrained`` may also be YOLOv5 weights or a safetensors checkpoint."""
        start = kwargs.get("pretrained")
        if isinstance(start, (str, Path)) and Path(start).is_file() and not kwargs.get("resume"):
            self.ckpt = {}  # otherwise Ultralytics unpickles the file itself; our trainer reads it safely
        try:
            return super().train(trainer, **kwargs)
        finally:
            self._restore_paths()

    def val(self, validator: Any = None, **kwargs: Any) -> Any:
        """Validates; batch and ``nms`` default to those of validation in training, so that the numbers agree.

        Images of a batch are padded to one shape, so another batch size changes mAP in the fourth digit. ``nms``
        selects the branch of an end-to-end head.
        """
        trained = self._check(kwargs)
        batch = trained.get("batch")
        if isinstance(batch, int) and batch >= 1:
            kwargs.setdefault("batch", 2 * batch)
        return super().val(validator, **{**_branch(trained), **kwargs})

    def predict(self, source: Any = None, stream: bool = False, predictor: Any = None, **kwargs: Any) -> Any:
        """Predicts; ``nms`` defaults to the training's, so that the validated branch draws the boxes."""
        arguments = {**_branch(self._check(kwargs)), **kwargs}
        with as_a_library():
            results = super().predict(source, True, predictor, **arguments)
        return results if stream else list(results)

    def export(self, **kwargs: Any) -> Any:
        """Exports a float model as Ultralytics does; raises `UnsupportedError` for a quantized one."""
        self._check(kwargs)
        if isinstance(self.model, nn.Module):
            refuse_export(self.model)
        return super().export(**kwargs)

    def _restore_paths(self) -> None:
        """Restores the paths of the run's checkpoints if Ultralytics has loaded links to them."""
        trainer, loaded = getattr(self, "trainer", None), getattr(self.model, "pt_path", None)
        if not isinstance(trainer, QuantDetectionTrainer):
            return
        own = {str(trainer.best): trainer.wdir / "best.pt", str(trainer.last): trainer.wdir / "last.pt"}
        trainer.restore_paths()
        if loaded in own:
            self.model.pt_path = self.overrides["model"] = str(own[loaded])

    @property
    def trained_with(self) -> dict[str, Any]:
        """Arguments of the checkpoint's training; empty without a checkpoint."""
        arguments: dict[str, Any] = (self.ckpt or {}).get("train_args", {})
        return arguments

    def _check(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Refuses unsupported arguments for our models, and returns those of the training; {} for other models."""
        if not isinstance(self.model, QuantDetectionModel):
            return {}
        refuse_unsupported(arguments)
        return self.trained_with


def _branch(trained: dict[str, Any]) -> dict[str, Any]:
    """Returns ``nms=False`` if training measured the one-to-one branch of an end-to-end head."""
    return {"nms": False} if trained.get("nms") is False else {}
