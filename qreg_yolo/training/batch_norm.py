"""BatchNorm statistics of a trained network, estimated anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def norms_of(model: nn.Module) -> list[_BatchNorm]:
    """Returns the BatchNorm layers of a network."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


@torch.no_grad()
def reestimate(model: nn.Module, batches: Iterable[Any], forward: Callable[[nn.Module, Any], object]) -> int:
    """Replaces the running statistics by the means of the batches' means and variances; returns the number of batches.

    As in Nagel et al., arXiv 2203.11086. The batches have to look as in training: statistics of letterboxed images
    (grey borders, objects of one size) belong to neither training nor evaluation on rectangles.

    Args:
        model: In eval mode; stays so.
        batches: At least one.
        forward: Runs the model on one batch.
    """
    count = 0
    with _estimating(norms_of(model)):
        for batch in batches:
            forward(model, batch)
            count += 1
    return count


@contextmanager
def _estimating(norms: list[_BatchNorm]) -> Iterator[None]:
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches
        norm.train()
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()
