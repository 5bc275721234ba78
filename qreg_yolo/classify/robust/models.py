"""The models of a measurement, and what one of them answers on a batch of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from qreg_yolo.classify import outputs
from qreg_yolo.classify.checkpoint import Description, load_classifier
from qreg_yolo.classify.data import ImageSet
from qreg_yolo.classify.datasets import class_rows
from qreg_yolo.classify.evaluate import evaluate
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.robustness.journal import Rows

ANSWER = np.dtype([("image", "<i4"), ("correct", "?")])
"""One answer: number of the image, and whether it is right."""


@dataclass(frozen=True)
class Candidate:
    """A checkpoint that was loaded and looked at."""

    weights: Path
    model: nn.Module
    """In eval mode, on its device."""
    precision: str
    """`fp32` | `bf16`: the arithmetic it was trained in."""
    identity: Mapping[str, Any]
    """Fields of its records."""
    rows: tuple[int, ...] | None = None
    """Its class of each class of the data; None: in the same order."""

    @property
    def run_id(self) -> str:
        """Names it in the records."""
        return str(self.identity["run_id"])

    def answers(self, images: ImageSet, first: int) -> Rows:
        """Returns what it gets right of a batch.

        Args:
            images: The batch, on its device.
            first: Number of its first image.
        """
        images = images.renumbered(self.rows)
        correct = evaluate(self.model, images, precision=self.precision, batch=len(images)).correct.numpy()
        rows = np.empty(len(correct), ANSWER)
        rows["image"] = np.arange(first, first + len(correct))
        rows["correct"] = correct
        return rows


@dataclass(frozen=True)
class Loaded:
    """A checkpoint before its data set is known."""

    weights: Path
    model: nn.Module
    description: Description

    @property
    def trained(self) -> Mapping[str, Any]:
        """Section ``run`` of its training."""
        run: Mapping[str, Any] = self.description.config["run"]
        return run


def load_all(weights: Sequence[Path], model: str | None) -> list[Loaded]:
    """Returns the models of some checkpoints.

    Args:
        weights: Files of `save_classifier`.
        model: The user's own factory, where the checkpoints name one.

    Raises:
        FileNotFoundError, WeightsError, ConfigError: As `load_classifier`.
    """
    return [Loaded(path, *load_classifier(path, model)[:2]) for path in weights]


def data_of(loaded: Sequence[Loaded]) -> str:
    """Returns the data set that all the checkpoints were trained on.

    Raises:
        ConfigError: They were trained on several.
    """
    names = {str(one.trained["data"]): one.weights for one in loaded}
    if len(names) > 1:
        trained = ", ".join(f"'{weights}' on {data}" for data, weights in names.items())
        raise ConfigError(f"The checkpoints were trained on several data sets: {trained}. Give one with --data.")
    return next(iter(names))


def candidates_for(loaded: Sequence[Loaded], images: ImageSet, device: torch.device) -> list[Candidate]:
    """Returns the models, ready to be measured on a data set.

    Raises:
        ConfigError: A model of another number of classes, or the same weights twice.
    """
    found: dict[str, Candidate] = {}
    for one in loaded:
        rows = class_rows(one.weights, one.description, images)
        identity = outputs.identity(one.weights, one.weights.stem, one.description, images.name)
        sha256 = str(identity["weights_sha256"])
        if sha256 in found:
            raise ConfigError(f"'{found[sha256].weights}' and '{one.weights}' are the same weights. Give each once.")
        placed = one.model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        found[sha256] = Candidate(one.weights, placed, one.description.precision, identity, rows)
    return list(found.values())
