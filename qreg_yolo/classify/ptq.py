"""Post-training quantization of a classifier: ranges from a few images, no training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from qreg_yolo.classify import outputs, runs
from qreg_yolo.classify.checkpoint import Progress, load_classifier, save_classifier
from qreg_yolo.classify.data import ImageSet, evaluation_batches
from qreg_yolo.classify.datasets import load_measured
from qreg_yolo.classify.network import quantize_network
from qreg_yolo.classify.setup import prepare
from qreg_yolo.errors import WeightsError
from qreg_yolo.io.files import new_folder, writable_project
from qreg_yolo.quant.calibration import CalibrationReport, calibrate
from qreg_yolo.quant.convert import quantized_layers
from qreg_yolo.quant.spec import QuantSpec
from qreg_yolo.training.tensor_file import SUFFIX

NAME = "ptq"
"""Stem of the checkpoint."""
_BATCH = 64
"""Images per batch of calibration."""


@dataclass(frozen=True, kw_only=True)
class PTQRequest:
    """The request of `quantize`."""

    weights: Path
    """A checkpoint in full precision."""
    spec: QuantSpec
    images: int
    """Training images that set the ranges of the inputs."""
    measuring: runs.Measuring


def quantize(request: PTQRequest) -> str:
    """Quantizes a checkpoint without training, writes it, validates it and records the numbers.

    Raises:
        ConfigError, FileNotFoundError, DataError, WeightsError, OSError: As `runs.validate`; the checkpoint is
            quantized already.
    """
    asked = request.measuring
    prepare(asked.threads, asked.device)
    network, description, _ = load_classifier(request.weights, asked.model)
    if quantized_layers(network):
        raise WeightsError(
            f"'{request.weights}' is quantized already ({description.spec.label}). Give its fp32 baseline."
        )
    trained = description.config["run"]
    images = load_measured(trained, asked.data, asked.data_dir, verify=asked.verify, split="train")
    chosen = images.subset(range(min(request.images, len(images))))
    converted = quantize_network(network, request.spec, pretrained=True)
    report = calibrate_on_images(network, chosen)
    config = {
        **description.config,
        "quant": request.spec.to_dict(),
        "run": {**trained, "weights": str(request.weights)},
    }
    made = replace(description, config=config, training="none", skipped=dict(converted.skipped))
    made.resolve(network, report.unreached)
    model = description.model.rpartition(":")[2]
    folder = new_folder(Path(writable_project(asked.project)), f"{model}-{trained['data']}-{request.spec.label}-{NAME}")
    path = folder / "weights" / f"{NAME}{SUFFIX}"
    path.parent.mkdir(parents=True)
    save_classifier(path, network, made, Progress())
    found = runs.measure(path, asked)
    identity = outputs.identity(path, NAME, made, found.data)
    outputs.append_records(folder / outputs.RECORDS, identity, found.numbers, found.data)
    lines = [f"Calibrated {report.initialized} quantizers on {len(chosen)} training images"]
    lines += [f"WARNING: {report}"] if report.unreached else []
    return "\n".join([*lines, found.line, f"Results: {folder}"])


def calibrate_on_images(network: nn.Module, images: ImageSet) -> CalibrationReport:
    """Sets the ranges from images without augmentation, BatchNorm on its running statistics."""
    norms = {name for name, module in network.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)}
    return calibrate(network, (batch for batch, _ in evaluation_batches(images, batch=_BATCH)), frozen=norms)
