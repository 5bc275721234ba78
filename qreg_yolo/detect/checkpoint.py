"""Reads checkpoints, with an error that says what is wrong with the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from ultralytics.nn.tasks import DetectionModel, load_checkpoint
from ultralytics.utils.torch_utils import strip_optimizer

from qreg_yolo import files
from qreg_yolo.detect.section import KEY, Section
from qreg_yolo.quant.convert import quantized_layers


class WeightsError(ValueError):
    """A file that is no usable checkpoint."""


def load_weights(path: Path) -> tuple[DetectionModel, dict[str, Any]]:
    """Returns the detector of a checkpoint (float32, eval mode) and the checkpoint's dictionary.

    Raises:
        FileNotFoundError: No such file.
        WeightsError: Not a checkpoint, a damaged one, or not of a detector.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no checkpoint '{path}'. Give the path of a .pt file, such as weights/best.pt."
        )
    if path.suffix != ".pt":
        raise WeightsError(f"'{path}' is not a .pt file. Give a checkpoint, such as weights/best.pt.")
    try:
        model, checkpoint = load_checkpoint(path)
    except Exception as error:  # unpickling raises whatever the bytes make it raise
        raise WeightsError(
            f"'{path}' ({path.stat().st_size} bytes) cannot be read as a checkpoint: it is damaged, cut short or of "
            f"another program ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no details'})."
        ) from error
    if not isinstance(model, DetectionModel) or getattr(model, "task", "detect") != "detect":
        raise WeightsError(f"'{path}' holds a {type(model).__name__}, not a detection model.")
    return model, checkpoint


def strip_checkpoint(path: Path, updates: dict[str, Any] | None = None) -> dict[str, Any]:
    """Drops from a finished run's checkpoint what only resuming needs, atomically; returns what is left.

    Args:
        path: The checkpoint; nothing happens where it is missing.
        updates: What to put in beside.
    """
    if not path.is_file():
        return {}
    partial = path.with_name(f".{path.name}.tmp")
    try:
        stripped: dict[str, Any] = strip_optimizer(path, s=str(partial), updates=updates)
        if stripped:
            files.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return stripped


def quantization_warning(model: nn.Module) -> str | None:
    """Returns what is wrong where a model's YAML says that it is quantized and no layer is, else None."""
    yaml = getattr(model, "yaml", None) or {}
    if KEY not in yaml or quantized_layers(model):
        return None
    section = Section.read(yaml)
    if section is None or not section.layers:
        return None
    return (
        f"The model's YAML describes {len(section.layers)} quantized layers, but none is: a trainer other than "
        "qreg-yolo's has rebuilt it in full precision. Train it with qreg-yolo train, or QuantYOLO."
    )
