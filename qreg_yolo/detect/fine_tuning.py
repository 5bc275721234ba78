"""Fine-tuning of a float checkpoint at low bits: the settings of its training become the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qreg_yolo.datasets.classes import class_names
from qreg_yolo.datasets.sources import find_data, read_source
from qreg_yolo.detect.checkpoint import Start, load_start
from qreg_yolo.detect.data_check import datasets_dir
from qreg_yolo.detect.quantization_config import KEY, QuantizationConfig
from qreg_yolo.detect.yolov5_weights import YOLOv5Weights
from qreg_yolo.errors import MissingFileError
from qreg_yolo.quant.convert import quantized_layers

RECIPE = "qat_finetune"
_ARGUMENTS = ("imgsz", "batch", "single_cls")
"""Ultralytics' arguments that are taken from the checkpoint's training."""


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """The start of a training, and the defaults that come with it."""

    start: Start
    options: Mapping[str, Any]
    """Model, head, activation and data of the checkpoint; empty unless it `fits`."""
    arguments: Mapping[str, Any]
    """Ultralytics' arguments; likewise."""
    fits: bool
    """Whether every tensor comes from the checkpoint: a float detector of the same model, head and classes."""

    def __str__(self) -> str:
        """Returns the settings in one line."""
        shown = {**self.options, **self.arguments}
        return ", ".join(f"{name}={value}" for name, value in shown.items() if value not in (None, False))


def fine_tuning(weights: Path, options: Mapping[str, Any], arguments: Mapping[str, Any]) -> FineTuning:
    """Returns the start of a training and the checkpoint's settings, as far as the command gives no others.

    Args:
        weights: The checkpoint.
        options: Given options by name.
        arguments: Given ``key=value`` words.

    Raises:
        FileNotFoundError, WeightsError: As `load_start`.
        DataError: The data cannot be used.
    """
    start, trained = load_start(weights)
    nothing = FineTuning(start=start, options={}, arguments={}, fits=False)
    if isinstance(start, YOLOv5Weights) or KEY not in start.yaml or quantized_layers(start):
        return nothing
    present = QuantizationConfig.of(start)
    own = {
        "model": str(start.yaml.get("yaml_file")), "head": present.head.kind, "activation": present.activation,
        "data": str(trained.get("data") or "demo"),
    }  # fmt: skip
    given = {name: options.get(name, arguments.get(name)) for name in own}
    wanted = {name: own[name] if value is None else str(value) for name, value in given.items()}
    if any(Path(wanted[name]).name != Path(own[name]).name for name in ("model", "head", "activation")):
        return nothing
    if given["data"] is None and wanted["data"] != "demo" and not Path(wanted["data"]).is_file():
        raise MissingFileError(f"The data of '{weights}' were '{own['data']}', which is gone. Give --data.")
    data = read_source(find_data(wanted["data"]), "train", datasets_dir=datasets_dir)
    names = ["item"] if trained.get("single_cls") else class_names(data.names)
    if names != class_names(start.names):
        return nothing
    inherited = {name: trained[name] for name in _ARGUMENTS if trained.get(name) and name not in arguments}
    missing = {name: own[name] for name, value in given.items() if value is None}
    return FineTuning(start=start, options=missing, arguments=inherited, fits=True)
