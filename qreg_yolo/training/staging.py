"""Stages of a training: other widths in the first epochs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from qreg_yolo.quant.base import Quantizer
from qreg_yolo.quant.spec import FLOAT_BITS, LayerPlan
from qreg_yolo.quant.stages import Stage, stage_at
from qreg_yolo.quant.widths import Widths, set_widths, widths_in


def planned_widths(plans: Mapping[str, LayerPlan]) -> Widths:
    """Returns the widths of each layer's plan."""
    return {
        name: (plan.weight.bits if plan.weight else FLOAT_BITS, plan.input.bits if plan.input else FLOAT_BITS)
        for name, plan in plans.items()
    }


class Staging:
    """The stages of one run.

    Where the width of a quantizer changes, it is calibrated anew, on the weights and inputs of that moment: with the
    span of 8 bits, hardly a weight of 2 bits is not 0. All other ranges are carried over. The parameters exist from the
    first epoch on, so that the optimizer and the checkpoints are the same in every stage.

    Args:
        stages: Before the last one.
        epochs: Of the whole run.
        plans: Full name of a layer -> its plan in the last stage.
    """

    def __init__(self, stages: Sequence[Stage], epochs: int, plans: Mapping[str, LayerPlan]) -> None:
        self._stages, self._epochs, self._planned = stages, epochs, planned_widths(plans)
        self._number = len(stages)  # a new model has the widths of the last stage

    def _widths(self, number: int) -> Widths:
        return widths_in(self._stages[number] if number < len(self._stages) else None, self._planned)

    def resume(self, epoch: int, *models: nn.Module) -> None:
        """Sets the widths of an epoch that is over (from 0), whose ranges the models have."""
        self._number = stage_at(self._stages, epoch, self._epochs)
        for model in models:
            set_widths(model, self._widths(self._number))

    def enter(
        self, epoch: int, model: nn.Module, averaged: nn.Module | None, calibrate: Callable[[], object]
    ) -> str | None:
        """Sets the widths of an epoch that begins (from 0).

        Args:
            epoch: The epoch.
            model: The network.
            averaged: The averaged network, if there is one.
            calibrate: Calibrates the quantizers of ``model`` that have no range.

        Returns:
            The stage in words if another one begins, else None.
        """
        number = stage_at(self._stages, epoch, self._epochs)
        if number == self._number:
            return None
        self._number = number
        widths = self._widths(number)
        changed = set_widths(model, widths)
        for quantizer in changed:
            quantizer.forget()
        if changed:
            calibrate()
        if averaged is not None:
            set_widths(averaged, widths)
            _copy_ranges(model, averaged, changed)
        label = "the widths asked for" if self.is_last else self._stages[number].label
        return f"Stage {number + 1} of {len(self._stages) + 1}: {label}"

    @property
    def is_last(self) -> bool:
        """Whether the last stage has begun."""
        return self._number == len(self._stages)


def _copy_ranges(model: nn.Module, averaged: nn.Module, quantizers: Sequence[Quantizer]) -> None:
    """Gives the averaged network's quantizers the state of the network's."""
    wanted = set(map(id, quantizers))
    others = dict(averaged.named_modules())
    for name, module in model.named_modules():
        if id(module) in wanted:
            others[name].load_state_dict(module.state_dict())
