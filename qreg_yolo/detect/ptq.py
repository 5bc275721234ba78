"""Post-training quantization of a detector: ranges from a few images, no training."""

from __future__ import annotations

import io
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics import __version__ as ultralytics_version
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import LOGGER

from qreg_yolo.datasets.sources import check_channels, find_data
from qreg_yolo.detect import evaluate, outputs
from qreg_yolo.detect.data_check import MIN_SIDE, check_data
from qreg_yolo.detect.detectors import Detector, load_detectors
from qreg_yolo.detect.model import QuantDetectionModel
from qreg_yolo.detect.policy import clipping_warning
from qreg_yolo.detect.preflight import check_arguments
from qreg_yolo.detect.quantization_config import KEY, QuantizationConfig
from qreg_yolo.detect.safetensors_checkpoint import save_safetensors
from qreg_yolo.detect.views import clean_batches
from qreg_yolo.errors import WeightsError
from qreg_yolo.io import files
from qreg_yolo.io.files import new_folder, writable_project
from qreg_yolo.io.process import use_threads
from qreg_yolo.quant.calibration import CalibrationReport, calibrate
from qreg_yolo.quant.convert import quantized_layers
from qreg_yolo.quant.spec import QuantSpec
from qreg_yolo.training.tensor_file import SUFFIX

NAME = "ptq"
"""Stem of the checkpoint."""
_BATCH = 16
"""Images per batch of calibration."""


@dataclass(frozen=True, kw_only=True)
class PTQRequest:
    """The request of `quantize`; None: as the checkpoint was trained."""

    weights: Path
    """A checkpoint in full precision; also YOLOv5 weights."""
    spec: QuantSpec
    images: int
    """Training images that set the ranges of the inputs."""
    data: str | None = None
    """As `find_data`; calibration takes its training split."""
    class_map: str | None = None
    head: str | None = None
    threads: int | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Ultralytics' arguments of the validation."""


def quantize(request: PTQRequest) -> outputs.RunResult:
    """Quantizes a checkpoint without training, writes it, validates it and records the numbers.

    Raises:
        ConfigError: A value that Ultralytics refuses, another head, or a class map that does not fit.
        FileNotFoundError: The checkpoint or the data do not exist.
        DataError, WeightsError: They cannot be used; the checkpoint is quantized already.
        OSError: The project folder cannot be written.
    """
    use_threads(request.threads)
    arguments = dict(request.arguments)
    check_arguments(arguments, "val")
    size = arguments.get("imgsz")
    (detector,) = load_detectors([request.weights], size)
    if quantized_layers(detector.model):
        raise WeightsError(
            f"'{request.weights}' is quantized already ({QuantizationConfig.of(detector.model).spec.label}). Give its "
            "fp32 baseline."
        )
    data = request.data or str(detector.trained.get("data") or "demo")
    evaluate.check_request(request.weights, detector.model, data, arguments, request.head, request.class_map)
    model = quantized(detector.model, request.spec)
    report = calibrate_on_images(model, detector, data, request.images)
    LOGGER.info(f"Calibrated {report.initialized} quantizers on {request.images} training images")
    if report.unreached:
        LOGGER.warning(str(report))
    outputs.warn(clipping_warning(model, request.spec, QuantizationConfig.of(model).activation))
    project = Path(writable_project(arguments.pop("project", None)))
    stem = f"{Path(detector.identity['model']).stem}-{request.spec.label}-{NAME}"
    folder = new_folder(project, str(arguments.pop("name", stem)))
    path = folder / "weights" / f"{NAME}.pt"
    save(model, path, {**detector.trained, "data": str(find_data(data)), "imgsz": detector.imgsz})
    placed = {**arguments, "project": str(folder.parent), "name": folder.name, "exist_ok": True}
    result = evaluate.validate(path, data, placed, request.threads, classes=request.class_map)
    return outputs.RunResult(save_dir=result.save_dir, table=f"{result.table}\nCheckpoint: {path}, {NAME}{SUFFIX}")


def quantized(model: DetectionModel, spec: QuantSpec) -> QuantDetectionModel:
    """Returns a quantized copy of a float detector, not calibrated.

    Raises:
        WeightsError: The detector cannot be rebuilt from its YAML.
    """
    yaml, present = deepcopy(model.yaml), QuantizationConfig.of(model)
    config = QuantizationConfig(
        spec=spec, activation=present.activation, pretrained=True, head=present.head, training="none",
        recipe=present.recipe,
    )  # fmt: skip
    config.write(yaml)
    copy = QuantDetectionModel(yaml, ch=yaml.get("channels", 3), nc=len(model.names), verbose=False)
    copy.names = dict(model.names)
    copy.load(model, verbose=False)
    state = copy.state_dict()
    for name, tensor in model.state_dict().items():
        if name not in state or not torch.equal(state[name], tensor.to(state[name].dtype)):
            raise WeightsError(f"The detector cannot be rebuilt from its YAML: '{name}' differs.")
    copy.args = model.args
    copy.eval()
    return copy


def calibrate_on_images(model: QuantDetectionModel, detector: Detector, data: str, count: int) -> CalibrationReport:
    """Sets the ranges from training images as validation sees them, BatchNorm on its running statistics."""
    images = check_data(find_data(data), "train", limit=count, min_side=MIN_SIDE, single_cls=detector.single_cls)
    check_channels(images.yaml, images.channels)
    batches = clean_batches(images, _BATCH, detector.view, detector.single_cls)
    norms = {name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    report = calibrate(model, (batch["img"].float() / 255 for batch in batches), frozen=norms)
    model.record_plan(report.unreached)
    return report


def save(model: QuantDetectionModel, path: Path, train_args: Mapping[str, Any]) -> None:
    """Writes a checkpoint like that of a finished training, and a safetensors checkpoint of the same name."""
    arguments = {key: value for key, value in train_args.items() if key != KEY}
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    stored = {"epoch": -1, "model": model, "ema": None, "optimizer": None, "train_args": arguments}
    torch.save({**stored, "version": ultralytics_version}, buffer)
    files.write_bytes(path, buffer.getvalue())
    save_safetensors(model, path.with_suffix(SUFFIX), arguments)
