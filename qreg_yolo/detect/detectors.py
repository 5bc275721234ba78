"""Detectors to measure, loaded and checked, and the match of their classes with the data's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultralytics.utils import LOGGER

from qreg_yolo.datasets.classes import ClassMap, class_map, class_names, match_classes
from qreg_yolo.detect.checkpoint import load_weights, quantization_warning
from qreg_yolo.detect.data_check import ImageSet
from qreg_yolo.detect.outputs import identity
from qreg_yolo.detect.views import ViewKey
from qreg_yolo.errors import WeightsError
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.robustness.measure import MeasuredModel, check_distinct


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
