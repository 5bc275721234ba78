"""Robustness of detectors: the numbers of Ultralytics' ``val``, without writing the corrupted images."""

from __future__ import annotations

import math
from collections.abc import Collection, Generator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ultralytics.utils import LOGGER
from ultralytics.utils.metrics import DetMetrics
from ultralytics.utils.torch_utils import select_device

from qreg_yolo.corrupt import MIN_SIDE
from qreg_yolo.datasets.classes import ClassMap
from qreg_yolo.datasets.sources import check_channels, find_data
from qreg_yolo.detect.batch_validator import BatchValidator, coco_map
from qreg_yolo.detect.compat import restore_threads
from qreg_yolo.detect.data_check import MIN_SIDE as ULTRALYTICS_MIN_SIDE
from qreg_yolo.detect.data_check import ImageSet, check_data
from qreg_yolo.detect.detectors import Detector, classes_of, load_detectors
from qreg_yolo.detect.views import CorruptedBatches, View, ViewKey, load
from qreg_yolo.io.process import use_threads
from qreg_yolo.metrics import image_statistics
from qreg_yolo.metrics.average_precision import mean_average_precision
from qreg_yolo.metrics.conditions import Condition
from qreg_yolo.metrics.image_statistics import THRESHOLDS, ImageStatistics
from qreg_yolo.robustness import settings
from qreg_yolo.robustness.journal import Rows, Task
from qreg_yolo.robustness.measure import RobustnessResult, Track
from qreg_yolo.robustness.measure import measure as measure_track
from qreg_yolo.robustness.request import RobustnessRequest
from qreg_yolo.terminal import Progress, no_progress


@dataclass(frozen=True, kw_only=True)
class DetectorRobustnessRequest(RobustnessRequest):
    """The request of `measure`."""

    data: str
    """``demo``, a shipped name or a data YAML."""
    out: Path
    """The output folder; measurements there with the same settings are continued."""
    split: str | None = None
    """None: ``test`` if the data have one, else ``val``."""
    imgsz: int | None = None
    """Px; None: each model's own."""
    class_map: str | None = None
    """As `datasets.classes.class_map`; None: classes match by name."""
    skip_bad: bool = False
    coco_eval: bool = False


def measure(request: DetectorRobustnessRequest, progress: Progress = no_progress) -> RobustnessResult:
    """Measures all models on clean and corrupted images; returns the output folder and a summary.

    Raises:
        ConfigError: An invalid value, or other settings than those of earlier measurements in the folder.
        FileNotFoundError, WeightsError, DataError: A missing or unusable checkpoint or dataset; images or labels that
            changed since the measurement began.
        FolderInUseError: Another process measures into the folder.
        OSError: The folder cannot be written.
    """
    use_threads(request.threads)
    request.check()
    device = select_device(request.device or "", verbose=False)
    restore_threads()
    detectors = load_detectors(request.weights, request.imgsz)
    images = check_data(
        find_data(request.data),
        request.split,
        limit=request.limit,
        min_side=MIN_SIDE if request.corruptions else ULTRALYTICS_MIN_SIDE,
        single_cls=detectors[0].single_cls,
        skip_bad=request.skip_bad,
    )
    check_channels(images.yaml, images.channels)
    classes = {one.run_id: classes_of(one, images, request.class_map) for one in detectors}
    if len({one.imgsz for one in detectors}) > 1:
        listed = ", ".join(f"{one.weights}: {one.imgsz}" for one in detectors)
        LOGGER.warning(f"The models have different image sizes ({listed}). Give --imgsz to compare them.")
    for fault in images.left_out:
        LOGGER.warning(f"Left out: {fault}")
    track = DetectionTrack(
        request=request, models=detectors, data=images.yaml.stem, split=images.split, n_images=len(images.images),
        batch=request.batch or max(one.batch for one in detectors), device=device, torch=torch.__version__,
        preset=request.preset or request.default_preset,
        journal="unfinished-boxes" if request.coco_eval else "unfinished", images=images, classes=classes,
    )  # fmt: skip
    return measure_track(track, request.out, progress)


@dataclass(kw_only=True)
class DetectionTrack(Track[Detector]):
    """Track of detectors: images in Ultralytics' order, each decoded once for all conditions."""

    request: DetectorRobustnessRequest
    images: ImageSet
    classes: Mapping[str, ClassMap | None]
    """Run id -> class map; None: the model's classes are those of the data."""
    compared: list[str] = field(default_factory=list)
    """Lines on pycocotools' mAP."""
    metrics = ("map50_95", "map50", "precision", "recall")
    title = "mAP50-95 [points]"

    def model_settings(self, model: Detector) -> dict[str, Any]:
        mapped = self.classes[model.run_id]
        return {
            **super().model_settings(model), "imgsz": model.imgsz,
            "classes": None if mapped is None else list(mapped.rows),
        }  # fmt: skip

    def contents(self, out: Path) -> dict[str, str | None]:
        return {"data_sha256": settings.digest(settings.check_unchanged(out, self.images.images))}

    def check(self, out: Path) -> None:
        settings.check_unchanged(out, self.images.images)

    @cached_property
    def views(self) -> dict[ViewKey, View]:
        """The images at each size of the models."""
        keys = dict.fromkeys(one.view for one in self.models)
        return {key: View(self.images, self.batch, key, self.models[0].single_cls) for key in keys}

    @cached_property
    def validators(self) -> dict[str, BatchValidator]:
        """Run id -> validator."""
        folder, boxed = self.request.out, self.request.coco_eval
        return {
            one.run_id: BatchValidator(
                one, self.views[one.view], self.images, folder, self.device, boxed, self.classes[one.run_id]
            )
            for one in self.models
        }

    def predictions(self, due: Mapping[Task, Collection[str]]) -> Generator[tuple[Task, str, Rows], None, None]:
        workers, validators = self.request.workers, self.validators
        if workers is None:
            workers = 0 if self.device.type == "cpu" else 8
        views = list(self.views.values())
        batches = CorruptedBatches(self.images, views, self.parts, self.request.corruption_options)
        with ExitStack() as evaluation:
            for validator in validators.values():
                evaluation.enter_context(validator.evaluation_ends)
            for task, shown in load(batches, due, workers):
                for key, batch in zip(self.views, shown, strict=True):
                    runs = [one.run_id for one in self.models if one.view == key and one.run_id in due[task]]
                    if runs:
                        batch = validators[runs[0]].preprocess(batch)
                    for run_id in runs:
                        yield task, run_id, validators[run_id].detections(batch, self.parts[task[1]].start)

    def conclude(
        self, model: Detector, condition: Condition, rows: Rows
    ) -> tuple[ImageStatistics, dict[str, float], dict[str, Any]]:
        n_classes = self.images.n_classes(single_cls=model.single_cls)
        targets = [
            np.bincount(label["cls"].astype(int).ravel() * (n_classes > 1), minlength=n_classes)
            for label in self.images.labels
        ]
        statistics = image_statistics.from_detections(
            confidence=rows["confidence"],
            category=rows["category"],
            image=rows["image"],
            correct=rows["hits"][:, None] >> np.arange(THRESHOLDS) & 1,
            targets=np.stack(targets),
            names=[image.place for image in self.images.images],
        )
        if self.request.coco_eval:
            ours = 100 * float(mean_average_precision(statistics, metric="map50_95")[0])
            other = 100 * coco_map(rows, self.images, n_classes)
            self.compared.append(
                f"{model.run_id} {condition[0]}-{condition[1]}: mAP50-95 {ours:.3f}, pycocotools {other:.3f}, "
                f"difference {other - ours:+.3f} points"
            )
        precision, recall = _at_best_f1(statistics)
        evaluation = self.validators[model.run_id].evaluation
        return statistics, {"precision": precision, "recall": recall}, {"evaluation": evaluation}

    def notes(self, again: int) -> list[str]:
        if not (self.request.coco_eval and again):
            return self.compared
        return [
            *self.compared,
            f"--coco-eval did not check the {again} conditions that were measured before: their boxes are not kept. To "
            "check them too, measure into a new folder with --out.",
        ]


def _at_best_f1(statistics: ImageStatistics) -> tuple[float, float]:
    """Returns Ultralytics' precision and recall: means over the classes at the best mean F1."""
    objects = statistics.targets.sum(0)
    if not objects.any():
        return math.nan, math.nan
    classes = np.repeat(np.arange(len(objects)), objects)
    metrics = DetMetrics(dict(enumerate(map(str, range(len(objects))))))
    metrics.stats = {
        "tp": [(statistics.hits[:, None] >> np.arange(THRESHOLDS) & 1).astype(bool)],
        "conf": [statistics.confidence],
        "pred_cls": [statistics.category],
        "target_cls": [classes],
        "target_img": [classes],
    }
    metrics.process()
    precision, recall = metrics.mean_results()[:2]
    return float(precision), float(recall)
