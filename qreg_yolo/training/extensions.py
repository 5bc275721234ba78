"""Extensions of training: techniques that act around the optimizer's steps, unknown to the loops that call them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn


class Extension(ABC):
    """One technique, for both tracks.

    A step is a step of the optimizer, whatever number of batches it accumulates. One that a gradient scaler skips is a
    step without change. With several processes each does the same to equal weights and averaged gradients, so that
    nothing is exchanged.
    """

    name: ClassVar[str]
    """Its key in the state of a resumable run."""

    @abstractmethod
    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Prepares the optimizer, before its state is restored; may split its groups."""

    @abstractmethod
    def before_step(self, progress: float, scale: float) -> None:
        """Acts on complete gradients, before they are clipped.

        Args:
            progress: Share of the training that is done after the step, above 0 to 1.
            scale: Factor of the gradients over those of the mean loss of an image, such as the number of images that a
                loss sums over, times the factor of a gradient scaler.
        """

    @abstractmethod
    def after_step(self, averaged: nn.Module | None) -> None:
        """Acts on the weights after a step and, where training averages them, on the averaged model."""

    @abstractmethod
    def columns(self) -> dict[str, float]:
        """Returns the columns of ``results.csv`` of the epoch that ends here."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Returns what a resumed run needs at the end of an epoch, after `columns`."""

    @abstractmethod
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restores the result of `state`."""


class Extensions:
    """The extensions of one training; without any, every method does nothing.

    Args:
        members: The extensions, in the order in which they act.
    """

    def __init__(self, *members: Extension) -> None:
        self._members = members

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """As `Extension.attach`."""
        for one in self._members:
            one.attach(optimizer)

    def before_step(self, progress: float, scale: float = 1.0) -> None:
        """As `Extension.before_step`."""
        for one in self._members:
            one.before_step(progress, scale)

    def after_step(self, averaged: nn.Module | None = None) -> None:
        """As `Extension.after_step`."""
        for one in self._members:
            one.after_step(averaged)

    def columns(self) -> dict[str, float]:
        """As `Extension.columns`."""
        return {name: value for one in self._members for name, value in one.columns().items()}

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Returns `Extension.state` by the name of the extension; empty without extensions."""
        return {one.name: one.state() for one in self._members}

    def restore(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """As `Extension.restore`; an extension without a state begins anew."""
        for one in self._members:
            if one.name in state:
                one.restore(state[one.name])
