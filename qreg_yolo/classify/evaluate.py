"""Accuracy and loss of a classifier on a set of images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qreg_yolo.classify.data import ImageSet, evaluation_batches
from qreg_yolo.quant.layers import weights_quantized_once
from qreg_yolo.training.environment import BF16

BATCH = 500
"""Images per forward pass."""


@dataclass(frozen=True)
class Evaluation:
    """The accuracy and loss of a classifier on a dataset."""

    loss: float
    """Mean cross-entropy, in nats."""
    accuracy: float
    """Share of the images whose class has the largest logit, 0..1."""
    correct: Tensor
    """bool `(n,)`, on the CPU: whether the prediction of each image is right."""


def in_precision(device: torch.device, precision: str) -> torch.autocast:
    """Returns a context that runs convolutions and linear layers in bfloat16 if ``precision`` is `bf16`."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == BF16)


def evaluate(model: nn.Module, data: ImageSet, *, precision: str = "fp32", batch: int = BATCH) -> Evaluation:
    """Returns the loss and the accuracy of ``model`` on ``data``, both on one device; its mode is restored.

    A compiled model runs eagerly here, so that a checkpoint gives the numbers of the run that wrote it.
    """
    training = model.training
    losses, correct = [], []
    model.eval()
    try:
        with torch.no_grad(), weights_quantized_once(model):
            for images, labels in evaluation_batches(data, batch=batch):
                with in_precision(images.device, precision):
                    logits = model.forward(images)
                losses.append(F.cross_entropy(logits.float(), labels, reduction="sum").double())
                correct.append(logits.argmax(1) == labels)
    finally:
        model.train(training)
    hits = torch.cat(correct).cpu()
    return Evaluation(float(torch.stack(losses).sum()) / len(data), float(hits.double().mean()), hits)
