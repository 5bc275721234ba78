"""Distillation losses, one pure function per equation, and the identity of the teacher's file.

Each loss is 0 where the student's values equal the teacher's, and so is its gradient. The caller keeps the teacher's
values free of gradients.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from qreg_yolo.config.distillation import DistillOptions
from qreg_yolo.errors import MissingFileError, WeightsError
from qreg_yolo.io import files

_SMALLEST = 1e-9
"""Smallest sum of weights to divide by."""


def bernoulli_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Returns the divergence of each pair of binary distributions, in nats, 0 or more.

    Binary cross-entropy with the teacher's probability as soft target, less the teacher's own entropy, which has no
    gradient. With p = sigmoid(teacher) and q = sigmoid(student):

        KL(p || q) = p log(p / q) + (1 - p) log((1 - p) / (1 - q)),  gradient to the student's logit: q - p

    Args:
        student: Logits, of any shape.
        teacher: Logits of the same shape.
    """
    target = teacher.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(student, target, reduction="none")
    return cross_entropy - F.binary_cross_entropy_with_logits(teacher, target, reduction="none")


def softmax_divergence(student: Tensor, teacher: Tensor, *, dim: int, temperature: float = 1.0) -> Tensor:
    """Returns the divergence of each pair of softened categorical distributions, times T^2, in nats.

    Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531, equation 1, and the factor
    T^2 of its section 2, which keeps the size of the gradient about independent of T. With p = softmax(teacher / T) and
    q = softmax(student / T) over ``dim``:

        T^2 KL(p || q) = T^2 sum_i p_i log(p_i / q_i),  gradient to the student's logit: T (q_i - p_i)

    Args:
        student: Logits, of any shape.
        teacher: Logits of the same shape.
        dim: The dimension of the classes, which the result lacks.
        temperature: T, above 0.
    """
    log_p, log_q = ((logits / temperature).log_softmax(dim) for logits in (teacher, student))
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(dim)


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Returns ``sum(weights * values) / sum(weights)``; 0 where all weights are 0.

    Args:
        values: Of any shape.
        weights: 0 or more, of the same shape.
    """
    return (weights * values).sum() / weights.sum().clamp(min=_SMALLEST)


def feature_error(student: Tensor, teacher: Tensor, scores: Tensor, *, relative: bool) -> Tensor:
    """Returns the squared error of a feature map, weighted by position.

    The design of Ultralytics' ``nn/distill_model.py``. With w the scores and c channels:

        E(d) = sum_(b, y, x) w mean_c d^2 / sum_(b, y, x) w
        error = E(student - teacher);  relative: E(student - teacher) / E(teacher), which no scale of features changes

    Args:
        student: `(b, c, h, w)`.
        teacher: `(b, c, h, w)`.
        scores: `(b, h, w)`, 0 or more: the teacher's highest class probability.
        relative: Whether to divide by the teacher's own weighted mean square.
    """
    error = weighted_mean((student - teacher).square().mean(1), scores)
    if not relative:
        return error
    return error / weighted_mean(teacher.square().mean(1), scores).clamp(min=torch.finfo(error.dtype).tiny)


def identified(options: DistillOptions) -> DistillOptions:
    """Returns the options with the absolute path and the hash of the teacher's file; unchanged without a teacher.

    Raises:
        FileNotFoundError: No such file.
        WeightsError: Another file than the one whose hash the options have.
    """
    if options.path is None:
        return options
    if not options.path.is_file():
        began = " The run began with it: put it back there." if options.sha256 else ""
        raise MissingFileError(f"There is no teacher '{options.path}'.{began or ' Give the path of a checkpoint.'}")
    digest = files.sha256(options.path)
    if options.sha256 not in (None, digest):
        raise WeightsError(
            f"The teacher '{options.path}' is another file than at the start of the run (sha256 {digest[:12]}, then "
            f"{str(options.sha256)[:12]}). Restore that file, or start a new run."
        )
    return replace(options, teacher=str(Path(options.path).absolute()), sha256=digest)
