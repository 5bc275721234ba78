"""Fine-tuning of a float classifier at low bits: the settings of its training become the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qreg_yolo.classify.checkpoint import read_description
from qreg_yolo.classify.models import is_import_path

RECIPE = "cifar_finetune"
_RUN = ("model", "data", "data_dir", "verify", "train_images")
_TRAIN = ("batch", "aug", "weight_decay", "channels_last")


def inherited(
    weights: Path, options: Mapping[str, Any], arguments: Mapping[str, Any]
) -> dict[str, dict[str, Any]] | None:
    """Returns section -> values of a checkpoint's training; None unless it is a float one of the same model and data.

    Args:
        weights: The checkpoint.
        options: Given options by name.
        arguments: Given ``key=value`` words.

    Raises:
        FileNotFoundError, WeightsError: As `load_classifier`.
    """
    description = read_description(weights)
    run, train = description.config["run"], description.config["train"]
    asked = {name: options.get(name, arguments.get(name)) for name in ("model", "data")}
    same = all(value in (None, run[name]) for name, value in asked.items())
    if description.layers or not same or (is_import_path(description.model) and asked["model"] is None):
        return None
    return {
        "run": {name: run[name] for name in _RUN if run.get(name) is not None},
        "train": {name: train[name] for name in _TRAIN if name in train},
    }
