"""The training loop: one network, one set of images, stochastic gradient descent with milestones."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qreg_yolo.classify.checkpoint import Progress
from qreg_yolo.classify.data import ImageSet, batch_size, training_batches
from qreg_yolo.classify.evaluate import evaluate, in_precision
from qreg_yolo.classify.network import calibrate_network
from qreg_yolo.classify.processes import Processes
from qreg_yolo.config.classification import ClassifyConfig
from qreg_yolo.quant.convert import quantized_layers
from qreg_yolo.quant.optim import StepSizeRule, quantizer_parameter_groups, split_quantizer_parameters
from qreg_yolo.quant.report import step_size
from qreg_yolo.quant.weight_noise import noise_columns
from qreg_yolo.training.distillation import softmax_divergence
from qreg_yolo.training.environment import epoch_seed
from qreg_yolo.training.extensions import Extensions
from qreg_yolo.training.finite import NonFiniteError, diagnosis, norm_is_finite
from qreg_yolo.training.staging import Staging

Step = Callable[[int, int, int], None]
"""Told after each step: epoch (from 1), steps done, steps of the epoch."""


@dataclass(kw_only=True)
class Run:
    """Everything that the loop works on."""

    config: ClassifyConfig
    model: nn.Module
    """On its device, quantized and calibrated."""
    train: ImageSet
    """On the same device."""
    val: ImageSet
    precision: str
    """`fp32` | `bf16`."""
    processes: Processes
    progress: Progress
    staging: Staging | None = None
    """Stages at other widths; None: there are none."""
    extensions: Extensions = field(default_factory=Extensions)
    """Attached to the optimizer."""
    teacher: nn.Module | None = None
    """On the same device, in eval mode, without gradients."""

    @property
    def batch(self) -> int:
        """Images per step, of all processes together."""
        return batch_size(self.train, self.config.train.batch)


def build_optimizer(config: ClassifyConfig, model: nn.Module) -> torch.optim.SGD:
    """Returns SGD with groups for the quantizers' parameters; all others are decayed."""
    options = config.train
    common = {"lr": options.lr0, "momentum": options.momentum, "nesterov": options.nesterov}
    network = split_quantizer_parameters(model, model.parameters())
    own = quantizer_parameter_groups(
        model, weight_decay=options.weight_decay, clip_decay=config.quant.clip_decay, **common
    )
    groups = [{"params": network, **common, "weight_decay": options.weight_decay, "param_group": "network"}, *own]
    optimizer = torch.optim.SGD(groups, lr=options.lr0)
    StepSizeRule(model, relative=config.quant.relative_steps).attach(optimizer)
    return optimizer


def fit(run: Run, optimizer: torch.optim.SGD, *, on_epoch: Callable[[dict[str, float]], None], on_step: Step) -> None:
    """Trains the epochs that are left.

    Args:
        run: What to train; its progress moves on.
        optimizer: From `build_optimizer`.
        on_epoch: Told each epoch's row, after validation, in the first process alone: it logs and saves.
        on_step: Told after each step.

    Raises:
        NonFiniteError: The loss or a gradient is not finite; nothing of it has reached the weights.
    """
    options = run.config.train
    before = run.progress.rows[-1]["time"] if run.progress.rows else 0.0
    start = time.perf_counter()
    for epoch in range(run.progress.epoch, options.epochs):
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate(epoch)
        _enter_stage(run, epoch)
        loss, accuracy, distilled = train_epoch(run, optimizer, epoch, on_step)
        run.processes.average_statistics(run.model)
        run.progress.epoch = epoch + 1
        if run.processes.is_first:
            due = (epoch + 1) % options.val_every == 0 or epoch + 1 == options.epochs
            reached = evaluate(run.model, run.val, precision=run.precision) if due else None
            row = {
                "epoch": epoch + 1,
                "time": before + time.perf_counter() - start,
                "train/loss": loss,
                "train/accuracy_top1": accuracy,
                **({"train/distill_loss": distilled} if run.teacher is not None else {}),
                "val/loss": reached.loss if reached else math.nan,
                "metrics/accuracy_top1": reached.accuracy if reached else math.nan,
                "lr/pg0": options.learning_rate(epoch),
                **layer_columns(run.model, log_noise=options.log_noise),
                **run.extensions.columns(),
            }
            run.progress.rows.append(row)
            on_epoch(row)


def _enter_stage(run: Run, epoch: int) -> None:
    """Sets the widths of the epoch that begins."""

    def calibrate() -> None:
        calibrate_network(run.model, run.train, run.config, run.batch)
        run.processes.share(run.model)

    begun = None if run.staging is None else run.staging.enter(epoch, run.model, None, calibrate)
    if begun is not None and run.processes.is_first:
        print(begun, flush=True)


def train_epoch(run: Run, optimizer: torch.optim.SGD, epoch: int, on_step: Step) -> tuple[float, float, float]:
    """Trains one epoch (counted from 0), on the sum of the cross-entropy and the teacher's weighted loss.

    Returns:
        Mean cross-entropy, accuracy and weighted distillation loss (0 without a teacher) of its batches as they were
        seen.
    """
    processes, config, batch = run.processes, run.config, run.batch
    torch.manual_seed(epoch_seed(config.run.seed, epoch) + processes.rank)  # for networks that draw (dropout)
    batches = training_batches(
        run.train, batch=batch, seed=config.run.seed, epoch=epoch, augment=config.train.aug != "none",
        rank=processes.rank, world_size=processes.size,
    )  # fmt: skip
    steps = len(run.train) // batch
    total = torch.zeros(3, device=run.train.images.device, dtype=torch.float64)  # sums of loss, hits, distillation
    run.model.train()
    for step, (images, labels) in enumerate(batches, 1):
        if not config.train.channels_last:
            images = images.contiguous()
        with in_precision(images.device, run.precision):
            logits = run.model(images)
        cross_entropy, distilled = F.cross_entropy(logits.float(), labels), _distillation(run, images, logits)
        loss = cross_entropy if run.teacher is None else cross_entropy + distilled
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        processes.average_gradients(run.model)
        _stop_unless_finite(run, images, loss, epoch)
        run.extensions.before_step((epoch + step / steps) / config.train.epochs)
        optimizer.step()
        run.extensions.after_step()
        hits = (logits.detach().argmax(1) == labels).sum()
        total += torch.stack([cross_entropy.detach() * len(images), hits, distilled.detach() * len(images)])
        on_step(epoch + 1, step, steps)
    processes.average([total])
    mean_loss, accuracy, mean_distilled = (total * processes.size / (steps * batch)).tolist()
    return mean_loss, accuracy, mean_distilled


def _distillation(run: Run, images: Tensor, logits: Tensor) -> Tensor:
    """Returns the teacher's weighted loss on a batch, a mean over its images; 0 without a teacher."""
    if run.teacher is None:
        return torch.zeros((), device=logits.device)
    with torch.no_grad(), in_precision(images.device, run.precision):
        wanted = run.teacher(images)
    options = run.config.distill
    each = softmax_divergence(logits.float(), wanted.float(), dim=1, temperature=options.temperature)
    return options.logits * each.mean()


def _stop_unless_finite(run: Run, images: Tensor, loss: Tensor, epoch: int) -> None:
    """Raises before the optimizer's step where the loss or a gradient is not finite; one look at the device."""
    if norm_is_finite(run.model, [loss.detach()]):
        return

    def forward(batch: Tensor) -> object:
        with in_precision(batch.device, run.precision):
            return run.model.forward(batch)  # not compiled: the hooks have to run

    if (what := diagnosis(run.model, [loss.detach()], images, forward)) is not None:
        raise NonFiniteError(
            f"Training stopped in epoch {epoch + 1}: {what}. Lower lr0 (now {run.config.train.lr0:g}) or use more bits."
        )


def layer_columns(model: nn.Module, *, log_noise: bool) -> dict[str, float]:
    """Returns the columns of ``results.csv`` that each quantized layer has: its steps, and its weight noise.

    Args:
        model: Calibrated.
        log_noise: As `noise_columns` takes it.
    """
    columns: dict[str, float] = {}
    for name, layer in quantized_layers(model).items():
        for side, quantizer in (("weight", layer.weight_fake_quant), ("input", layer.input_fake_quant)):
            if quantizer is not None and (step := step_size(quantizer)) is not None:
                columns[f"step/{name}.{side}"] = step
    return columns | noise_columns(model, everything=log_noise)
