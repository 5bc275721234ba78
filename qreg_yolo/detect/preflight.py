"""Refuses what cannot work before any work is done: wrong arguments, models, folders and resumptions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import guess_model_task, yaml_model_load

from qreg_yolo.detect.class_map import class_names
from qreg_yolo.detect.data_check import CheckedData
from qreg_yolo.detect.dataset import DataError
from qreg_yolo.detect.errors import ModelError
from qreg_yolo.detect.model_yaml import check_model_yaml
from qreg_yolo.detect.section import KEY, Section
from qreg_yolo.errors import MissingFileError
from qreg_yolo.strict_yaml import ConfigError

RESUMABLE: tuple[str, ...] = (
    "batch", "cache", "channels_last", "close_mosaic", "device", "freeze", "imgsz", "patience", "plots", "save_period",
    "time", "val", "workers",
)  # fmt: skip
"""Ultralytics' arguments that may differ when a run is resumed; the host ignores the others."""


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Raises unless the host takes the values of its own arguments.

    Raises:
        ConfigError: A value outside its range.
    """
    sizes = arguments.get("imgsz", 640)
    if any(not isinstance(size, int) or size < 1 for size in (sizes if isinstance(sizes, list) else [sizes])):
        raise ConfigError(f"imgsz={sizes} is not a size in pixels. Give a positive multiple of 32.")
    try:
        get_cfg(overrides=dict(arguments))
    except (TypeError, ValueError, SyntaxError) as error:
        raise ConfigError(str(error)) from error


def check_model(name: str) -> None:
    """Raises unless ``name`` is a model YAML of a detector.

    Raises:
        ConfigError: Not a YAML.
        FileNotFoundError: No such YAML.
        ModelError: A YAML of something else, or one that Ultralytics would execute.
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


def check_names(model: Any, data: CheckedData, checkpoint: Path) -> None:
    """Raises unless a data set still has the classes that a run was begun with, in the same order.

    Raises:
        DataError: It does not.
    """
    before, now = class_names(model.names), list(data.names)
    if before != now and len(before) == len(now):
        changed = next(number for number, (old, new) in enumerate(zip(before, now, strict=True)) if old != new)
        raise DataError(
            f"{data.yaml}: class {changed} is '{now[changed]}', and was '{before[changed]}' when the run of "
            f"'{checkpoint}' began. Restore the names, or start a new run with --weights."
        )


def check_resumption(
    checkpoint: Path, stored: Mapping[str, Any], arguments: Mapping[str, Any], request: Mapping[str, Any]
) -> None:
    """Raises unless a run can go on from a checkpoint as it was asked to.

    Args:
        checkpoint: Its path, for the error text.
        stored: Its dictionary.
        arguments: Ultralytics' arguments that were given.
        request: Quantization options that were given.

    Raises:
        ConfigError: A finished run, another program's run, an argument that cannot change, or other quantization.
    """
    if stored.get("epoch", -1) < 0 or stored.get("optimizer") is None:
        raise ConfigError(
            f"'{checkpoint}' is of a finished run: nothing is left to resume. Use --weights to go on from it."
        )
    trained = stored.get("train_args", {}).get(KEY)
    if trained is None:
        raise ConfigError(f"'{checkpoint}' is not of a run of qreg-yolo. Use --weights to start from it.")
    if checkpoint.absolute().parent.name != "weights":
        raise ConfigError(
            f"'{checkpoint}' does not lie in its run's folder (RUN/weights/last.pt), where the run would go on. Put it "
            "back there, or use --weights to start from it."
        )
    fixed = [key for key in arguments if key not in RESUMABLE]
    if fixed:
        raise ConfigError(
            f"{fixed[0]}={arguments[fixed[0]]} cannot change when a run is resumed. What can: {', '.join(RESUMABLE)}."
        )
    before = Section.from_request(trained, pretrained=False)
    wanted = Section.from_request({"activation": before.activation, **request}, pretrained=False)
    widths = {"bits": ("weight_bits", "act_bits"), "weight_only": ("act_bits",)}
    for name in sorted({field for option in request for field in widths.get(option, (option,))}):
        old, new = (getattr(s if name == "activation" else s.spec, name) for s in (before, wanted))
        if old != new:
            raise ConfigError(
                f"'{checkpoint}' was trained with {name}={old}, this command asks for {new}. Drop the option to "
                "resume, or start a new run with --weights."
            )
