"""What a detector's checkpoint is made of: per-layer report, size and bit-operations."""

from __future__ import annotations

from pathlib import Path

import torch

from qreg_yolo.detect.checkpoint import load_weights, quantization_warning
from qreg_yolo.detect.policy import spare_layers
from qreg_yolo.detect.quantization_config import Section
from qreg_yolo.quant.inspection import Inspection, one_thread
from qreg_yolo.quant.report import count_macs, layer_reports, model_size


def inspect_weights(path: Path) -> Inspection:
    """Returns what a checkpoint is made of; MACs at the image size it was trained at.

    Raises:
        FileNotFoundError, WeightsError: No readable checkpoint.
    """
    with one_thread():
        return _inspect(path)


def _inspect(path: Path) -> Inspection:
    model, checkpoint = load_weights(path)
    imgsz = int(checkpoint.get("train_args", {}).get("imgsz") or 640)
    section = Section.read(model.yaml)
    image = torch.zeros(1, int(model.yaml.get("channels", 3)), imgsz, imgsz)
    macs = count_macs(model, lambda: model(image))
    return Inspection(
        weights=str(path),
        label=section.spec.label if section else "fp32",
        imgsz=imgsz,
        layers=layer_reports(model, macs),
        size=model_size(model),
        spare_layers=spare_layers(model),
        warning=quantization_warning(model),
    )
