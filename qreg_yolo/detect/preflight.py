"""Checks before the work: arguments, models, classes, and resumed runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import guess_model_task, yaml_model_load
from ultralytics.utils import LOGGER
from ultralytics.utils.torch_utils import select_device

from qreg_yolo.config.key_values import check_folder_name
from qreg_yolo.config.ultralytics_arguments import Command, without_effect
from qreg_yolo.datasets.classes import class_names
from qreg_yolo.detect.compat import restore_threads
from qreg_yolo.detect.data_check import ImageSet
from qreg_yolo.detect.model_yaml import check_model_yaml
from qreg_yolo.detect.quantization_config import KEY, QuantizationConfig
from qreg_yolo.errors import DataError, MissingFileError, ModelError
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.quant.spec import spelled_out

RESUMABLE: tuple[str, ...] = (
    "batch", "cache", "channels_last", "close_mosaic", "device", "freeze", "imgsz", "patience", "plots", "save_period",
    "time", "val", "workers",
)  # fmt: skip
"""Arguments that may change when a run is resumed; Ultralytics ignores the others."""


def check_arguments(arguments: Mapping[str, Any], command: Command = "train") -> None:
    """Validates Ultralytics arguments with Ultralytics' own checker; warns of those without effect.

    Args:
        arguments: Arguments of the right types.
        command: The command that gets them.

    Raises:
        ConfigError: A value outside its range, an invalid folder name, or a missing device.
    """
    for key in ("name", "project"):
        check_folder_name(key, str(arguments.get(key) or ""))
    sizes = arguments.get("imgsz", 640)
    if not sizes or any(not isinstance(one, int) or one < 1 for one in (sizes if isinstance(sizes, list) else [sizes])):
        raise ConfigError(f"imgsz={sizes} is not a size in pixels. Give a positive multiple of 32.")
    if command == "predict" and isinstance(sizes, list) and len(sizes) > 2:
        raise ConfigError(f"imgsz={sizes} has more than two sizes. Give one, or [height,width].")
    _check_batch(arguments.get("batch", 1), command)
    for key in ("workers", "time"):
        if (arguments.get(key) or 0) < 0:
            raise ConfigError(f"{key}={arguments[key]} is negative. Give 0 or more.")
    try:
        get_cfg(overrides={key: value for key, value in arguments.items() if key != "name"})
    except (TypeError, ValueError, SyntaxError) as error:
        raise ConfigError(str(error)) from error
    _check_device(arguments.get("device"))
    if (notice := without_effect(arguments, command)) is not None:
        LOGGER.warning(notice)


def _check_batch(batch: float, command: Command) -> None:
    whole = float(batch).is_integer()
    if command == "train":
        if not ((whole and batch >= 1) or batch == -1 or 0 < batch < 1):
            raise ConfigError(
                f"batch={batch} is not a batch size. Give images per batch, or -1 or a fraction of the GPU's memory "
                "such as 0.7 to have it chosen."
            )
    elif not (whole and batch >= 1):
        raise ConfigError(f"batch={batch} is not a whole number of at least 1. Give images per batch.")


def _check_device(device: object) -> None:
    try:
        found = select_device("" if device is None else device, verbose=False)
    except ValueError:
        found = None
    restore_threads()
    if not isinstance(found, torch.device) or (str(device).startswith("mps") and found.type != "mps"):
        raise ConfigError(
            f"device={device} is not here: torch sees {torch.cuda.device_count()} GPUs. Use device=cpu, or the numbers "
            "of GPUs, from 0 on."
        )


def check_freeze(model: nn.Module, freeze: int | list[int | str] | None) -> None:
    """Raises `ConfigError` if an entry of ``freeze`` does not name a layer, or nothing remains to train.

    Args:
        model: The network.
        freeze: Ultralytics': the number of first layers, or numbers and names such as ``23.cv2``.
    """
    names = [name for name, _ in model.named_parameters()]
    last = max(int(name.split(".")[1]) for name in names)
    left = set(names)
    for entry in freeze if isinstance(freeze, list) else range(freeze or 0):
        found = {name for name in names if f"model.{entry}." in name}
        if not found and entry not in range(last):  # a layer may have no parameters
            raise ConfigError(
                f"freeze={freeze}: the model has no layer {entry}. Give numbers from 0 to {last}, or names such as "
                f"{last}.cv2."
            )
        left -= found
    if not left:
        raise ConfigError(f"freeze={freeze} leaves nothing to train. Give fewer layers.")


def check_classes(classes: int | list[int] | None, names: Sequence[str]) -> None:
    """Raises `ConfigError` unless Ultralytics' argument ``classes`` selects existing class numbers; None: all."""
    picked = classes if isinstance(classes, list) else [] if classes is None else [classes]
    if classes is not None and (not picked or any(not 0 <= number < len(names) for number in picked)):
        raise ConfigError(f"classes={classes}: there are the classes 0 to {len(names) - 1} ({', '.join(names):.200}).")


def check_model(name: str) -> None:
    """Raises unless ``name`` is a model YAML of a detector.

    Raises:
        ConfigError: Not a YAML.
        FileNotFoundError: No such YAML.
        ModelError: Not a detector, or text that Ultralytics would execute.
    """
    if Path(name).suffix not in (".yaml", ".yml"):
        remedy = f"Use --weights {name} to start from a checkpoint." if name.endswith(".pt") else "Add .yaml."
        raise ConfigError(f"The model '{name}' is not a YAML such as yolov5n.yaml. {remedy}")
    try:
        description = yaml_model_load(name)
    except FileNotFoundError:
        raise MissingFileError(
            f"There is no model YAML '{name}'. Give a path, or one that Ultralytics has, such as yolov5n.yaml."
        ) from None
    except Exception as error:  # whatever the YAML parser raises
        raise ModelError(f"The model YAML '{name}' cannot be read: {error}") from error
    check_model_yaml(description, f"'{name}'")
    if (task := guess_model_task(description)) != "detect":
        raise ModelError(f"'{name}' describes a model for the task '{task}'. Give one for detection.")


def check_names(model: Any, data: ImageSet, checkpoint: Path) -> None:
    """Raises `DataError` if a dataset has other classes than at the start of a resumed run, or another order."""
    before, now = class_names(model.names), class_names(data.names)
    if before != now and len(before) == len(now):
        changed = next(number for number, (old, new) in enumerate(zip(before, now, strict=True)) if old != new)
        raise DataError(
            f"{data.yaml}: class {changed} is '{now[changed]}', and was '{before[changed]}' when the run of "
            f"'{checkpoint}' began. Restore the names, or start a new run with --weights."
        )


def check_resume(
    checkpoint: Path, stored: Mapping[str, Any], arguments: Mapping[str, Any], request: Mapping[str, Any]
) -> None:
    """Raises unless a run can be resumed from a checkpoint with these options.

    Args:
        checkpoint: Its path, for the error text.
        stored: Its dictionary.
        arguments: Given arguments of Ultralytics.
        request: Given quantization options.

    Raises:
        ConfigError: A finished run, another program's run, an argument that cannot change, or other quantization.
    """
    if stored.get("epoch", -1) < 0 or stored.get("optimizer") is None:
        raise ConfigError(
            f"'{checkpoint}' is of a finished run: nothing is left to resume. Use --weights to start from it."
        )
    trained = stored.get("train_args", {}).get(KEY)
    if trained is None:
        raise ConfigError(f"'{checkpoint}' is not of a run of qreg-yolo. Use --weights to start from it.")
    if checkpoint.absolute().parent.name != "weights":
        raise ConfigError(
            f"'{checkpoint}' is not in its run's folder (RUN/weights/last.pt), where the run would be resumed. Move it "
            "back there, or use --weights to start from it."
        )
    fixed = [key for key in arguments if key not in RESUMABLE]
    if fixed:
        raise ConfigError(
            f"{fixed[0]}={arguments[fixed[0]]} cannot change when a run is resumed. What can: {', '.join(RESUMABLE)}."
        )
    before = QuantizationConfig.from_request(trained)
    wanted = QuantizationConfig.from_request({"activation": before.activation, **request})
    activation = {name: value for name, value in request.items() if name == "activation"}
    quant = {name: value for name, value in request.items() if name != "activation"}
    for name in sorted({**spelled_out(quant), **activation}):
        old, new = (getattr(s if name == "activation" else s.spec, name) for s in (before, wanted))
        if old != new:
            raise ConfigError(
                f"'{checkpoint}' was trained with {name}={old}, this command asks for {new}. Remove the option to "
                "resume, or start a new run with --weights."
            )
