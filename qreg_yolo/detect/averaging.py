"""Averaged weights over a share of the training, with BatchNorm statistics of their own."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.utils.torch_utils import ModelEMA, unwrap_model

from qreg_yolo.detect.policy import frozen_norms

_MOST_STEPS = 8
"""Most optimizer steps from one update of the averaged network's BatchNorm statistics to the next."""
MOMENTUM = 0.05
"""Weight of one batch in these statistics."""


class AveragedModel(ModelEMA):
    """Exponential moving average of all parameters, over a window of optimizer steps.

    The statistics of BatchNorm are not averaged: a mean over many different networks belongs to none of them, least of
    all at low bits, where the averaged weights have other codes. Instead the averaged network runs on every eighth
    training batch (more often with a window below 128 steps), and keeps running statistics of its own inputs.

    Args:
        model: The network in training.
        window: Optimizer steps that the average spans, 1 or more: its decay is ``1 - 1 / window``, and smaller at the
            start, ``(1 + n) / (10 + n)`` after ``n`` steps.
        frozen: Full names of the BatchNorm layers that training keeps in eval mode: theirs stay.
    """

    def __init__(self, model: nn.Module, window: float, frozen: Collection[str] = ()) -> None:
        super().__init__(model)
        self._every = min(max(round(window / 16), 1), _MOST_STEPS)
        self._norms = [m for name, m in self.ema.named_modules() if isinstance(m, _BatchNorm) and name not in frozen]
        largest = 1.0 - 1.0 / max(window, 1.0)
        self.decay: Callable[[int], float] = lambda n: min(largest, (1.0 + n) / (10.0 + n))

    @classmethod
    def of(cls, trainer: BaseTrainer, share: float) -> AveragedModel:
        """Returns the average of a trainer's network over a share of the run's optimizer steps, above 0 to 1."""
        steps = len(trainer.train_loader) * trainer.epochs / trainer.accumulate
        frozen = frozen_norms(unwrap_model(trainer.model), trainer.args.freeze)
        return cls(trainer.model, share * steps, frozen)

    def update(self, model: nn.Module) -> None:
        """Averages the parameters; buffers stay."""
        if not self.enabled:
            return
        self.updates += 1
        own, live = dict(self.ema.named_parameters()), dict(unwrap_model(model).named_parameters())
        with torch.no_grad():
            weight = 1.0 - self.decay(self.updates)
            torch._foreach_lerp_(list(own.values()), [live[name].detach() for name in own], weight)

    @torch.no_grad()
    def observe(self, images: Tensor) -> None:
        """Updates the statistics of BatchNorm by a training batch, where one is due.

        Args:
            images: `(n, c, h, w)`, as the network gets them.
        """
        if not self.enabled or self.updates % self._every:
            return
        momenta = [norm.momentum for norm in self._norms]
        for norm in self._norms:
            norm.train()
            norm.momentum = MOMENTUM
        try:
            self.ema(images)
        finally:
            for norm, momentum in zip(self._norms, momenta, strict=True):
                norm.eval()
                norm.momentum = momentum
