"""Fine-tuning of a float checkpoint at low bits: the settings of its training become the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qreg_yolo.config.fine_tuning import TrainedSettings
from qreg_yolo.datasets.classes import class_names
from qreg_yolo.datasets.sources import find_data, read_source
from qreg_yolo.detect.checkpoint import Start, load_start
from qreg_yolo.detect.data_check import datasets_dir
from qreg_yolo.detect.quantization_config import KEY, QuantizationConfig
from qreg_yolo.detect.yolov5_weights import YOLOv5Weights
from qreg_yolo.errors import MissingFileError
from qreg_yolo.quant.convert import quantized_layers


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """The start of a training, and the defaults that come with it."""

    start: Start
    sections: Mapping[str, Mapping[str, Any]] | None
    """Section -> values of the checkpoint's training, if every tensor comes from it: a float detector of the same
    model, head and classes; else None."""

    def __str__(self) -> str:
        """Returns the settings that a user would look for, in one line."""
        found = {**(self.sections or {}).get("run", {}), **(self.sections or {}).get("train", {})}
        shown = [f"{name}={found[name]}" for name in ("model", "data", "imgsz", "batch") if name in found]
        return ", ".join([*shown, f"{(self.sections or {})['head']['kind']} head"])


def fine_tuning(weights: Path, options: Mapping[str, Any], arguments: Mapping[str, Any]) -> FineTuning:
    """Returns the start of a training, and the settings of the checkpoint's own training.

    Args:
        weights: The checkpoint.
        options: Given options by name.
        arguments: Given ``key=value`` words.

    Raises:
        FileNotFoundError, WeightsError: As `load_start`.
        DataError: The data cannot be used.
    """
    start, trained = load_start(weights)
    nothing = FineTuning(start=start, sections=None)
    if isinstance(start, YOLOv5Weights) or KEY not in start.yaml or quantized_layers(start):
        return nothing
    present = QuantizationConfig.of(start)
    settings = TrainedSettings(
        model=str(start.yaml.get("yaml_file")), activation=present.activation,
        data=str(trained.get("data") or "demo"), head=present.head, arguments=trained,
    )  # fmt: skip
    if not settings.fit(options, arguments):
        return nothing
    wanted = options.get("data", arguments.get("data"))
    if wanted is None and settings.data != "demo" and not Path(settings.data).is_file():
        raise MissingFileError(f"The data of '{weights}' were '{settings.data}', which is gone. Give --data.")
    data = read_source(find_data(str(wanted or settings.data)), "train", datasets_dir=datasets_dir)
    names = ["item"] if trained.get("single_cls") else class_names(data.names)
    if names != class_names(start.names):
        return nothing
    return FineTuning(start=start, sections=settings.sections())
