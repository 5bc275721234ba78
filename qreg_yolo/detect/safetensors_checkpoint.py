"""Safetensors checkpoints of detectors: the tensors, and a JSON description in the header, without any pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from ultralytics import __version__ as ultralytics_version
from ultralytics.nn.tasks import DetectionModel

from qreg_yolo import __version__
from qreg_yolo.detect.compat import as_loaded
from qreg_yolo.detect.model import QuantDetectionModel
from qreg_yolo.detect.model_yaml import check_model_yaml
from qreg_yolo.detect.quantization_config import KEY
from qreg_yolo.errors import InvalidValueError, WeightsError
from qreg_yolo.io import files
from qreg_yolo.training.tensor_file import SUFFIX, fill, read, tensors_of

HEADER = "qreg_yolo"
"""Key of the description in the file's metadata."""
VERSION = 1
"""Version of the description."""
LACKING = "holds tensors without a description by qreg-yolo. Give a file that train wrote."
_FIELDS: dict[str, type] = {"model": dict, "names": list, "stride": list, "train_args": dict}
"""Required fields of the description, besides its version."""


def save_safetensors(model: DetectionModel, path: Path, train_args: Mapping[str, Any] | None = None) -> None:
    """Writes a detector atomically to a file that `load_safetensors` reads back bit by bit.

    Args:
        model: A detector, quantized or not.
        path: Ends in ``.safetensors``.
        train_args: Arguments of the training; validation reads dataset, image size and batch from them.

    Raises:
        ValueError: Another suffix, or a model that cannot be rebuilt from its YAML.
        OSError: The file cannot be written.
    """
    if Path(path).suffix != SUFFIX:
        raise InvalidValueError(f"'{path}' does not end in {SUFFIX}. Give such a name.")
    if type(model) not in (DetectionModel, QuantDetectionModel):
        raise InvalidValueError(
            f"A {type(model).__name__} cannot be written: give a detector, such as QuantYOLO(...).model."
        )
    description = {
        "version": VERSION,
        "model": model.yaml,
        "names": list(model.names.values()),
        "stride": model.stride.tolist(),
        "train_args": dict(train_args or {}),
        "versions": {"qreg-yolo": __version__, "ultralytics": ultralytics_version, "torch": torch.__version__},
    }
    metadata = {"format": "pt", HEADER: json.dumps(description, allow_nan=False, default=str)}
    files.write_bytes(Path(path), save(tensors_of(model), metadata))


def load_safetensors(path: Path) -> tuple[DetectionModel, dict[str, Any]]:
    """Returns the detector of a file (eval mode) and a dictionary like that of a ``.pt`` checkpoint.

    Raises:
        OSError: The file cannot be read.
        WeightsError: Not a file of `save_safetensors`, a damaged one, or an inconsistent one.
    """
    description, tensors = read(path, HEADER, VERSION, LACKING)
    _check_fields(description, path)
    try:
        model = _build(description, tensors)
    except Exception as error:  # Ultralytics raises many kinds of errors on wrong descriptions
        raise WeightsError(f"'{path}' describes a model that cannot be built: {error}") from error
    fill(model, tensors, path)
    model.requires_grad_(False)
    if model.stride.tolist() != description["stride"]:
        raise WeightsError(
            f"'{path}' describes strides {description['stride']}, but the model has {model.stride.tolist()}."
        )
    trained = description["train_args"]
    return as_loaded(model, trained, path), {"epoch": -1, "optimizer": None, "model": model, "train_args": trained}


def _check_fields(found: Mapping[str, Any], path: Path) -> None:
    for key, kind in _FIELDS.items():
        if not isinstance(found.get(key), kind):
            raise WeightsError(f"The description in '{path}' has no usable '{key}' ({found.get(key)!r:.60}).")


def _build(description: dict[str, Any], tensors: Mapping[str, Tensor]) -> DetectionModel:
    """Returns the model of a description, without the tensors."""
    yaml, names = description["model"], [str(name) for name in description["names"]]
    check_model_yaml(yaml, "its YAML")
    if len(names) != yaml.get("nc"):
        raise ValueError(f"{len(names)} names for {yaml.get('nc')} classes")
    cls = QuantDetectionModel if KEY in yaml else DetectionModel
    model: DetectionModel = cls(deepcopy(yaml), ch=yaml.get("channels", 3), verbose=False)
    last = f"model.{len(model.model) - 1}.cv3.0.2.weight"
    present, wanted = model.state_dict().get(last), tensors.get(last)
    if present is not None and wanted is not None and wanted.shape[1:2] != present.shape[1:2]:
        _widen(model, yaml, wanted.shape[1])
    model.names, model.nc = dict(enumerate(names)), len(names)
    return model


def _widen(model: DetectionModel, yaml: dict[str, Any], width: int) -> None:
    """Sets the width of the class branch, as Ultralytics does when it loads weights of ``width`` classes."""
    plain = {**{key: value for key, value in yaml.items() if key != KEY}, "nc": width}
    model.load(DetectionModel(deepcopy(plain), ch=yaml.get("channels", 3), verbose=False), verbose=False)
