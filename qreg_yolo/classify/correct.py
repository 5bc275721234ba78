"""Quantization correction of a trained classifier: codes and statistics stay, scales and shifts are trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qreg_yolo.classify import outputs, runs
from qreg_yolo.classify.checkpoint import Description, Progress, load_classifier, save_classifier
from qreg_yolo.classify.data import ImageSet, batch_size, training_batches
from qreg_yolo.classify.datasets import load_split
from qreg_yolo.classify.network import first_last_layers
from qreg_yolo.classify.setup import prepare
from qreg_yolo.errors import WeightsError
from qreg_yolo.io.files import new_folder, writable_project
from qreg_yolo.quant.convert import quantized_layers
from qreg_yolo.quant.rescale import fold_scales, scale_layers
from qreg_yolo.training.batch_norm import norms_of, reestimate
from qreg_yolo.training.tensor_file import SUFFIX


@dataclass(frozen=True, kw_only=True)
class CorrectionRequest:
    """The request of `correct`."""

    weights: Path
    """A quantized checkpoint."""
    measuring: runs.Measuring
    """Data and device."""
    epochs: int = 1
    """Passes over the training set; 0: no correction."""
    lr0: float = 5e-4
    """Learning rate of AdamW at the start; it falls to 0 along a line."""
    bn_batches: int = 0
    """Batches to estimate BatchNorm's statistics on, before the correction; 0: they stay."""


def correct(request: CorrectionRequest) -> str:
    """Corrects a checkpoint, writes it as another one, validates it and records the numbers.

    Quantization correction (Gupta & Asthana, arXiv 2311.05109), here by the cross entropy: BatchNorm's affine pairs,
    and scale and bias of the last layer, move.

    Raises:
        ConfigError, FileNotFoundError, DataError, WeightsError, OSError: As `runs.validate`; the checkpoint is in full
            precision.
    """
    asked = request.measuring
    device = prepare(asked.threads, asked.device)
    network, description, _ = load_classifier(request.weights, asked.model)
    if not quantized_layers(network):
        raise WeightsError(f"'{request.weights}' is in full precision: there is nothing to correct.")
    trained = description.config["run"]
    images = load_split(
        asked.data or str(trained["data"]), "train", asked.data_dir or trained["data_dir"],
        verify=asked.verify and bool(trained["verify"]), count=trained.get("train_images"),
    )  # fmt: skip
    project = Path(writable_project(asked.project))
    network.to(device)
    moved = images.to(device)
    if request.bn_batches:
        reestimate(network, _some(description, moved, request.bn_batches), lambda model, batch: model(batch))
    if request.epochs:
        names = scale_layers(network, first_last_layers(network)[-1:])
        _train(network, names, description, moved, request)
        fold_scales(network, names)
    description.resolve(network.cpu(), {})
    label = description.spec.label
    folder = new_folder(project, f"{request.weights.stem}-{label}-corrected")
    path = folder / "weights" / f"{request.weights.stem}-corrected{SUFFIX}"
    path.parent.mkdir(parents=True)
    save_classifier(path, network, description, Progress())
    found = runs.measure(path, asked)
    identity = outputs.identity(path, path.stem, description, found.data)
    outputs.append_records(folder / outputs.RECORDS, identity, found.numbers, found.data)
    return f"{found.line}\nResults: {folder}"


def _batches(description: Description, images: ImageSet, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    train: dict[str, Any] = description.config["train"]
    return training_batches(
        images, batch=batch_size(images, int(train["batch"])), seed=int(description.config["run"]["seed"]), epoch=epoch,
        augment=train["aug"] != "none",
    )  # fmt: skip


def _some(description: Description, images: ImageSet, count: int) -> Iterator[Tensor]:
    """Yields the images of ``count`` training batches."""
    epoch = 0
    while count > 0:
        for batch, _ in islice(_batches(description, images, epoch), count):
            yield batch
            count -= 1
        epoch += 1


def _train(
    network: nn.Module, scaled: list[str], description: Description, images: ImageSet, request: CorrectionRequest
) -> None:
    moving = [p for norm in norms_of(network) for p in (norm.weight, norm.bias) if p is not None]
    for name in scaled:
        named = network.get_submodule(name).named_parameters()
        moving += [p for key, p in named if key in ("scale", "layer.bias")]
    network.requires_grad_(False).eval()
    for parameter in moving:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(moving, lr=request.lr0, weight_decay=0.0)
    steps = max(request.epochs * (len(images) // batch_size(images, int(description.config["train"]["batch"]))), 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 - step / steps)
    for epoch in range(request.epochs):
        for batch, labels in _batches(description, images, epoch):
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(network(batch), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    network.requires_grad_(False)
