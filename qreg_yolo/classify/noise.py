"""The weight noise of a classifier's checkpoint, and its effect on the loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qreg_yolo.classify.checkpoint import Description, load_classifier
from qreg_yolo.classify.data import ImageSet, evaluation_batches
from qreg_yolo.classify.datasets import class_rows, load_measured
from qreg_yolo.classify.network import first_last_layers
from qreg_yolo.classify.setup import prepare
from qreg_yolo.datasets.sources import select_keys
from qreg_yolo.noise.jacobian import outputs_of
from qreg_yolo.noise.perturbation import Task
from qreg_yolo.noise.study import NoiseRequest, Plan, study_report
from qreg_yolo.quant.convert import plan_quantization
from qreg_yolo.quant.spec import LayerPlan, QuantSpec
from qreg_yolo.robustness.request import check_counts
from qreg_yolo.terminal import Progress, no_progress

LIMIT = 64
"""Images that gradients and losses are measured on, unless asked for otherwise."""
_BATCH = 64
"""Images at a time."""


@dataclass(frozen=True, kw_only=True)
class ClassifierNoiseRequest(NoiseRequest):
    """The request of `measure`; None: as the checkpoint was trained, or the default."""

    data_dir: str | None = None
    verify: bool = True
    model: str | None = None


def measure(request: ClassifierNoiseRequest, progress: Progress = no_progress) -> dict[str, Any]:
    """Returns the report of a checkpoint as plain values (`study_report`).

    Raises:
        ConfigError: A dataset, split or number that cannot be.
        FileNotFoundError, DataError, WeightsError: A checkpoint or data that are missing or cannot be used.
        OSError: The folder cannot be written.
        ValueError: A layer that has no weights.
    """
    check_counts({"limit": request.limit}, 1)
    device = prepare(request.threads, request.device)
    network, description, _ = load_classifier(request.weights, request.model)
    network.to(device)
    images = _images(request, description) if request.losses else None
    about = {"track": "classify", "model": description.model}
    data = None if images is None else {"data": images.name, "split": images.split, "n_images": len(images)}
    task = None if images is None else partial(_task, network, images.to(device))
    return study_report(
        network, _plan(network), request, spec=description.spec, task=task, about=about, data=data, progress=progress
    )


def _images(request: ClassifierNoiseRequest, description: Description) -> ImageSet:
    split = request.split or "train"
    images = load_measured(
        description.config["run"], request.data, request.data_dir, verify=request.verify, split=split
    )  # fmt: skip
    images = images.renumbered(class_rows(request.weights, description, images))
    return images.subset(select_keys(images.keys, request.limit or LIMIT))


def _plan(network: nn.Module) -> Plan:
    ends = first_last_layers(network)

    def plan(spec: QuantSpec) -> Mapping[str, LayerPlan]:
        return plan_quantization(network, spec, first_last_layers=ends, pretrained=True).swapped

    return plan


def _task(network: nn.Module, images: ImageSet) -> Task:
    batches = list(evaluation_batches(images, batch=_BATCH))
    return Task(outputs_of(network), batches, {"mse": squared_error, "cross_entropy": cross_entropy})


def squared_error(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns ``||y - t||^2`` of every sample, `(b,)`, with t 1 at its label and 0 elsewhere."""
    target = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
    return (logits - target).square().sum(1)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the cross-entropy of every sample, `(b,)`, in nats."""
    return -torch.log_softmax(logits, 1).gather(1, labels[:, None])[:, 0]
