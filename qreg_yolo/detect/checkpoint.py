"""Checkpoints, read without executing anything in them, with an error that names a file's fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

from torch import nn
from ultralytics.nn.tasks import DetectionModel, torch_safe_load, yaml_model_load
from ultralytics.utils.torch_utils import strip_optimizer

from qreg_yolo.config.detection import HeadConfig
from qreg_yolo.detect.compat import as_loaded, as_taken
from qreg_yolo.detect.model import QuantDetectionModel
from qreg_yolo.detect.model_yaml import check_model_yaml
from qreg_yolo.detect.quantization_config import KEY, QuantizationConfig
from qreg_yolo.detect.safe_load import check_archive, check_file, is_yolov5, unreadable
from qreg_yolo.detect.safetensors_checkpoint import load_safetensors
from qreg_yolo.detect.yolov5_weights import YOLOv5Weights, read_yolov5
from qreg_yolo.errors import MissingFileError, ModelError, WeightsError
from qreg_yolo.io import files
from qreg_yolo.io.pickles import PickleError
from qreg_yolo.io.torch_archive import TorchArchive
from qreg_yolo.quant.convert import quantized_layers
from qreg_yolo.training.tensor_file import SUFFIX, fill

Start: TypeAlias = DetectionModel | YOLOv5Weights
"""The start of a training."""


def load_weights(path: Path) -> tuple[DetectionModel, dict[str, Any]]:
    """Returns the detector of a checkpoint (float32, eval mode) and the checkpoint's dictionary.

    Args:
        path: A ``.pt`` file of qreg-yolo, Ultralytics or the YOLOv5 repository, or a ``.safetensors`` file of
            qreg-yolo.

    Raises:
        FileNotFoundError: No such file.
        WeightsError: No checkpoint of a detector, a damaged one, or one that would execute something.
    """
    loaded = _load(path)
    if not isinstance(loaded, YOLOv5Weights):
        return loaded
    model = as_loaded(yolov5_detector(loaded), {}, path)
    return model, {"epoch": -1, "optimizer": None, "model": model, "train_args": {}}


def load_start(path: Path) -> tuple[Start, dict[str, Any]]:
    """Returns the start of a training, and the arguments of the start's own training; errors as `load_weights`."""
    loaded = _load(path)
    return (loaded, {}) if isinstance(loaded, YOLOv5Weights) else (loaded[0], loaded[1]["train_args"])


def existing(path: Path) -> Path:
    """Returns the path of a checkpoint if the file exists and its suffix is known.

    Raises:
        FileNotFoundError: No such file.
        WeightsError: Another suffix.
    """
    if not path.is_file():
        raise MissingFileError(
            f"There is no checkpoint '{path}'. Give the path of a .pt file, such as weights/best.pt."
        )
    if path.suffix not in (".pt", SUFFIX):
        raise WeightsError(f"'{path}' is not a .pt or {SUFFIX} file. Give a checkpoint, such as weights/best.pt.")
    return path


def _load(path: Path) -> tuple[DetectionModel, dict[str, Any]] | YOLOv5Weights:
    existing(path)
    if path.suffix == SUFFIX:
        return load_safetensors(path)
    try:
        with TorchArchive(path) as archive:
            if is_yolov5(archive):
                return read_yolov5(archive, path)
            check_archive(archive, path)
    except PickleError as error:
        raise unreadable(path, error) from error
    return _revive(path)


def _revive(path: Path) -> tuple[DetectionModel, dict[str, Any]]:
    """Returns the content of a file that passed `check_archive`, through torch's restricted unpickler."""
    try:
        with as_taken(path) as taken:
            checkpoint, _ = torch_safe_load(taken, safe_only=True)
        model = checkpoint.get("ema") or checkpoint.get("model")
    except Exception as error:  # unpickling raises whatever the bytes make it raise
        raise unreadable(path, error) from error
    if not isinstance(model, DetectionModel) or getattr(model, "task", "detect") != "detect":
        raise WeightsError(f"'{path}' holds a {type(model).__name__}, not a detection model.")
    if checkpoint.get("modelopt"):
        raise WeightsError(
            f"'{path}' was quantized by Ultralytics (quantize=8), which is another method. Start from a checkpoint "
            "in full precision, with --bits."
        )
    try:
        check_model_yaml(model.yaml, f"The model in '{path}'")
        trained = {**(checkpoint.get("train_args") or {})}
        return as_loaded(model.float(), trained, path), {**checkpoint, "train_args": trained}
    except ModelError as error:
        raise WeightsError(str(error)) from error
    except Exception as error:  # an object without the state of its class
        raise unreadable(path, error) from error


def strip_checkpoint(path: Path, updates: dict[str, Any] | None = None) -> dict[str, Any]:
    """Removes from a finished run's checkpoint what only resuming needs, atomically; returns the rest.

    Args:
        path: The checkpoint; a missing file is ignored.
        updates: Entries to add.

    Raises:
        WeightsError: It would execute something (a resumed run's folder may contain a foreign file of that name).
    """
    if not path.is_file():
        return {}
    check_file(path)  # Ultralytics unpickles it without restrictions
    partial = path.with_name(f".{path.name}.tmp")
    try:
        stripped: dict[str, Any] = strip_optimizer(path, s=str(partial), updates=updates)
        if stripped:
            files.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return stripped


def quantization_warning(model: nn.Module) -> str | None:
    """Returns a warning if a model's YAML describes quantized layers and the model has none, else None."""
    yaml = getattr(model, "yaml", None) or {}
    if KEY not in yaml or quantized_layers(model):
        return None
    layers = QuantizationConfig.read(yaml).layers
    if not layers:
        return None
    return (
        f"The model's YAML describes {len(layers)} quantized layers, but the model has none: a trainer other than "
        "qreg-yolo's has rebuilt it in full precision. Train it with qreg-yolo train, or QuantYOLO."
    )


_STEM = "model.0.conv.weight"
_SIZES = {16: "n", 32: "s", 48: "m", 64: "l", 80: "x"}
"""Output channels of the first convolution -> size of YOLOv5."""


def yolov5_detector(weights: YOLOv5Weights) -> QuantDetectionModel:
    """Returns the full-precision detector of YOLOv5 weights: n to x, version 6.0 or later.

    Raises:
        WeightsError: Another network, or tensors that do not match it.
    """
    stem = weights.tensors.get(_STEM)
    size = _SIZES.get(stem.shape[0]) if stem is not None and stem.shape[1:] == (3, 6, 6) else None
    if size is None or weights.head != "model.24":
        raise WeightsError(
            f"'{weights.path}' is of the YOLOv5 repository, but not YOLOv5 n, s, m, l or x of version 6.0 or later for "
            "colour images: it cannot be run here. Start a training from what fits of it: qreg-yolo train --weights "
            f"{weights.path}"
        )
    names = weights.class_names()
    description = yaml_model_load(f"yolov5{size}.yaml")
    if weights.activation is not None:
        description["activation"] = weights.activation
    QuantizationConfig(pretrained=True, head=HeadConfig(kind="anchor")).write(description)
    try:
        model = QuantDetectionModel(description, nc=len(names), verbose=False)
    except ModelError as error:
        raise WeightsError(f"'{weights.path}': {error}") from error
    fill(model, weights.for_anchor_head(), weights.path)
    model.names = dict(enumerate(names))
    model.requires_grad_(False)
    return model
