"""The models of a measurement, each prepared and judged by the host's own code for validation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ultralytics.nn.autobackend import AutoBackend

from qreg_yolo.datasets.classes import ClassMap, class_map, class_names, match_classes
from qreg_yolo.detect.checkpoint import load_weights, quantization_warning
from qreg_yolo.detect.data_check import ImageSet
from qreg_yolo.detect.outputs import identity
from qreg_yolo.detect.robust.views import View, ViewKey
from qreg_yolo.detect.validator import QuantDetectionValidator
from qreg_yolo.errors import WeightsError
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.metrics.image_statistics import THRESHOLDS

DETECTION = np.dtype([("image", "<i4"), ("confidence", "<f4"), ("category", "<i4"), ("hits", "<u2")])
"""One detection: index of its image, confidence, class, and a bit per IoU threshold (`image_statistics`)."""
BOXED = np.dtype([*DETECTION.descr, ("box", "<f4", (4,))])
"""With its box, xyxy in px of the original image."""
Detections = NDArray[Any]


@dataclass
class Candidate:
    """A checkpoint that was loaded and looked at."""

    weights: Path
    model: Any
    trained: dict[str, Any]
    """Arguments of its training."""
    identity: dict[str, Any]
    """Fields of its records."""
    imgsz: int
    """Px."""

    @property
    def run_id(self) -> str:
        """Names it in the records."""
        return str(self.identity["run_id"])

    @property
    def single_cls(self) -> bool:
        """Whether it was trained on a single class."""
        return bool(self.trained.get("single_cls"))

    @property
    def view(self) -> ViewKey:
        """What its view of the images depends on."""
        return ViewKey(self.imgsz, max(int(self.model.stride.max()), 32))

    @property
    def batch(self) -> int:
        """Images per batch that ``val`` would take."""
        batch = self.trained.get("batch")
        return 2 * batch if isinstance(batch, int) and batch >= 1 else 16


def load_candidates(weights: list[Path], imgsz: int | None) -> tuple[list[Candidate], list[str]]:
    """Returns the models of some checkpoints, and what to beware of.

    Raises:
        FileNotFoundError, WeightsError: As `load_weights`; models that disagree about a single class.
        ConfigError: The same weights twice, or an image size that is not a multiple of the stride.
    """
    found: list[Candidate] = []
    warnings = []
    for path in weights:
        model, stored = load_weights(path)
        trained = dict(stored.get("train_args") or {})
        size = imgsz if imgsz is not None else trained.get("imgsz", 640)
        one = Candidate(
            path, model, trained, {**identity(path, model.yaml, int(trained.get("seed", 0))), "precision": "fp32"},
            max(size) if isinstance(size, (list, tuple)) else int(size),
        )  # fmt: skip
        if one.imgsz < 32 or one.imgsz % one.view.stride:
            raise ConfigError(f"imgsz={one.imgsz} is not a multiple of {one.view.stride}, the stride of '{path}'.")
        for other in found:
            if other.identity["weights_sha256"] == one.identity["weights_sha256"]:
                raise ConfigError(f"'{other.weights}' and '{path}' are the same weights. Give each once.")
            if other.single_cls != one.single_cls:
                raise ConfigError(f"Only one of '{other.weights}' and '{path}' has single_cls. Measure them apart.")
        warning = quantization_warning(model)
        warnings += [f"{path}: {warning}"] if warning else []
        found.append(one)
    return found, warnings


def classes_of(candidate: Candidate, images: ImageSet, given: str | None = None) -> ClassMap | None:
    """Returns which of a model's classes are those of the data; None where they agree, or do not count.

    Args:
        candidate: The model.
        images: The data.
        given: As `class_map`; None: by name.

    Raises:
        ConfigError: A map that does not fit.
        WeightsError: Classes that only the model or only the data has.
    """
    names, wanted = class_names(candidate.model.names), class_names(images.names)
    if (outputs := getattr(candidate.model.model[-1], "nc", len(names))) != len(names):
        raise WeightsError(f"'{candidate.weights}' names {len(names)} classes and detects {outputs}: it is damaged.")
    if candidate.single_cls:
        return None
    if given is not None:
        return class_map(given, wanted, names)
    return match_classes(wanted, names, candidate.weights, images.yaml)


class Judge(QuantDetectionValidator):
    """The host's validation of one model, taken one batch at a time.

    Args:
        candidate: The model.
        view: What it looks at.
        images: The images and their labels.
        folder: An existing folder (the host wants one; nothing is written there).
        device: To compute on.
        boxed: Whether to keep the boxes.
        classes: Which of the model's classes are those of the data; None: they agree.
    """

    def __init__(
        self,
        candidate: Candidate,
        view: View,
        images: ImageSet,
        folder: Path,
        device: torch.device,
        boxed: bool,
        classes: ClassMap | None = None,
    ) -> None:
        arguments = {
            "mode": "val", "task": "detect", "imgsz": candidate.imgsz, "rect": True, "plots": False,
            "split": images.split, "batch": view.batch_size, "single_cls": candidate.single_cls, "verbose": False,
        }  # fmt: skip
        if candidate.trained.get("nms") is False:  # the branch of an end-to-end head that training measured
            arguments["nms"] = False
        super().__init__(save_dir=folder, args=arguments, classes=classes)
        self.training, self.device, self.boxed = False, device, boxed
        self.data = {"names": images.names, "nc": len(images.names), "channels": images.channels}
        self.dataloader = SimpleNamespace(dataset=view)
        self.order = view.order
        self.backend = AutoBackend(
            model=candidate.model, device=device, fp16=False, end2end=self.args.nms is False, verbose=False
        )
        self.args.quantize = None
        self.backend.eval()
        self.backend.warmup(imgsz=(1, images.channels, candidate.imgsz, candidate.imgsz))
        self.init_metrics(self.backend)

    def measure(self, batch: dict[str, Any], first: int) -> Detections:
        """Returns what the model detects on a batch that the host has preprocessed.

        Args:
            batch: The batch.
            first: Place of its first image in the host's order.
        """
        found = [
            self._judged(si, prediction, batch, self.order[first + si])
            for si, prediction in enumerate(self.postprocess(self.backend(batch["img"])))
        ]
        return np.concatenate(found)

    def _judged(self, si: int, prediction: dict[str, Any], batch: dict[str, Any], image: int) -> Detections:
        truth = self._prepare_batch(si, batch)
        prediction = self._prepare_pred(prediction)
        found = np.empty(len(prediction["cls"]), BOXED if self.boxed else DETECTION)
        found["image"] = image
        found["confidence"] = prediction["conf"].cpu().numpy()
        found["category"] = prediction["cls"].cpu().numpy()
        found["hits"] = self._process_batch(prediction, truth)["tp"] @ (1 << np.arange(THRESHOLDS))
        if self.boxed:
            found["box"] = self.scale_preds(prediction, truth)["bboxes"].cpu().numpy()
        return found
