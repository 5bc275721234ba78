"""Fine-tuning of a float checkpoint at low bits: the settings of its training become the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
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
_ARGUMENTS = (
    "imgsz", "batch", "single_cls", "box", "cls", "dfl", "hsv_h", "hsv_s", "hsv_v", "degrees", "translate", "scale",
    "shear", "perspective", "flipud", "fliplr", "bgr", "mosaic", "mixup", "cutmix", "copy_paste", "multi_scale",
)  # fmt: skip
"""Ultralytics' arguments that are taken from the checkpoint's training: size, batch, gains and augmentation."""
_ANCHOR_FREE = ("box", "cls", "dfl")
"""Those that only Ultralytics' own head reads."""


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
    own = {
        "model": str(start.yaml.get("yaml_file")), "activation": present.activation,
        "data": str(trained.get("data") or "demo"),
    }  # fmt: skip
    given = {name: options.get(name, arguments.get(name)) for name in (*own, "head")}
    wanted = {name: str(given[name] or value) for name, value in {**own, "head": present.head.kind}.items()}
    present_names = {**own, "head": present.head.kind}
    if any(Path(wanted[name]).name != Path(present_names[name]).name for name in ("model", "head", "activation")):
        return nothing
    if given["data"] is None and own["data"] != "demo" and not Path(own["data"]).is_file():
        raise MissingFileError(f"The data of '{weights}' were '{own['data']}', which is gone. Give --data.")
    data = read_source(find_data(wanted["data"]), "train", datasets_dir=datasets_dir)
    names = ["item"] if trained.get("single_cls") else class_names(data.names)
    if names != class_names(start.names):
        return nothing
    train = {name: trained[name] for name in _ARGUMENTS if trained.get(name) is not None}
    if present.head.has_anchors:
        train = {name: value for name, value in train.items() if name not in _ANCHOR_FREE}
    return FineTuning(start=start, sections={"run": own, "head": asdict(present.head), "train": train})
