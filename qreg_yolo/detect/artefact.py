"""A detector as one ``.safetensors`` file: its tensors, and a JSON description in the header. No pickle is involved."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from ultralytics import __version__ as host_version
from ultralytics.nn.tasks import DetectionModel

from qreg_yolo import __version__, files
from qreg_yolo.detect.compat import as_loaded
from qreg_yolo.detect.errors import WeightsError
from qreg_yolo.detect.model import QuantDetectionModel
from qreg_yolo.detect.model_yaml import check_model_yaml
from qreg_yolo.detect.section import KEY

SUFFIX = ".safetensors"
HEADER = "qreg_yolo"
"""Key of the description in the file's metadata."""
VERSION = 1
"""Of the description."""
_FIELDS: dict[str, type] = {"model": dict, "names": list, "stride": list, "train_args": dict}
"""What the description must have, beside its version."""


def save_safetensors(model: DetectionModel, path: Path, train_args: Mapping[str, Any] | None = None) -> None:
    """Writes a detector as one file that `load_safetensors` reads back bit by bit; atomically.

    Args:
        model: A detector, quantized or not.
        path: Ends in ``.safetensors``.
        train_args: What it was trained with; validation reads the data set, the image size and the batch there.

    Raises:
        ValueError: Another suffix, or a model that cannot be rebuilt from its YAML.
        OSError: The file cannot be written.
    """
    if Path(path).suffix != SUFFIX:
        raise ValueError(f"'{path}' does not end in {SUFFIX}. Give such a name.")
    if type(model) not in (DetectionModel, QuantDetectionModel):
        raise ValueError(f"A {type(model).__name__} cannot be written: give a detector, such as QuantYOLO(...).model.")
    description = {
        "version": VERSION,
        "model": model.yaml,
        "names": list(model.names.values()),
        "stride": model.stride.tolist(),
        "train_args": dict(train_args or {}),
        "versions": {"qreg-yolo": __version__, "ultralytics": host_version, "torch": torch.__version__},
    }
    metadata = {"format": "pt", HEADER: json.dumps(description, allow_nan=False, default=str)}
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    files.write_bytes(Path(path), save(tensors, metadata))


def load_safetensors(path: Path) -> tuple[DetectionModel, dict[str, Any]]:
    """Returns the detector of a ``.safetensors`` file (eval mode) and what a checkpoint's dictionary would hold.

    Raises:
        OSError: The file cannot be read.
        WeightsError: Not a file of `save_safetensors`, a damaged one, or one that does not fit together.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise WeightsError(f"'{path}' is damaged, cut short or no safetensors file ({error}).") from error
    description = _description(metadata, path)
    try:
        model = _build(description, tensors)
    except Exception as error:  # whatever the host raises on a description that is well formed and wrong
        raise WeightsError(f"'{path}' describes a model that cannot be built: {error}") from error
    _fill(model, tensors, path)
    if model.stride.tolist() != description["stride"]:
        raise WeightsError(
            f"'{path}' describes strides {description['stride']}, but the model has {model.stride.tolist()}."
        )
    trained = description["train_args"]
    return as_loaded(model, trained, path), {"epoch": -1, "optimizer": None, "model": model, "train_args": trained}


def _description(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    if HEADER not in metadata:
        raise WeightsError(f"'{path}' holds tensors without a description by qreg-yolo. Give a file that train wrote.")
    try:
        found = json.loads(metadata[HEADER])
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"The description in '{path}' is not JSON ({error}).") from error
    if not isinstance(found, dict) or found.get("version") != VERSION:
        version = found.get("version") if isinstance(found, dict) else None
        raise WeightsError(f"The description in '{path}' has version {version!r:.40}, this qreg-yolo reads {VERSION}.")
    for key, kind in _FIELDS.items():
        if not isinstance(found.get(key), kind):
            raise WeightsError(f"The description in '{path}' has no usable '{key}' ({found.get(key)!r:.60}).")
    return found


def _build(description: dict[str, Any], tensors: Mapping[str, Tensor]) -> DetectionModel:
    """Returns the model that a description asks for, not yet filled."""
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
    """Gives the class branch the width of the weights it was trained from, as the host does when it loads those.

    The branch's width follows the number of classes: weights of ``width`` classes have it.
    """
    plain = {**{key: value for key, value in yaml.items() if key != KEY}, "nc": width}
    model.load(DetectionModel(deepcopy(plain), ch=yaml.get("channels", 3), verbose=False), verbose=False)


def _fill(model: DetectionModel, tensors: Mapping[str, Tensor], path: Path) -> None:
    state = model.state_dict()
    for fault, names in (("lacks", state.keys() - tensors.keys()), ("has too much:", tensors.keys() - state.keys())):
        if names:
            raise WeightsError(f"'{path}' does not fit its own description: it {fault} '{min(names)[:80]}'.")
    for name, tensor in tensors.items():
        if (tensor.shape, tensor.dtype) != (state[name].shape, state[name].dtype):
            raise WeightsError(
                f"'{path}' does not fit its own description: '{name[:80]}' is {tensor.dtype} {list(tensor.shape)}, "
                f"the model has {state[name].dtype} {list(state[name].shape)}."
            )
    model.load_state_dict(dict(tensors))
    model.requires_grad_(False)
