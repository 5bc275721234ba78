"""Averaged weights with BatchNorm statistics of their own."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from qreg_yolo.detect.averaging import MOMENTUM, AveragedModel


class Network(nn.Sequential):
    """A convolution with BatchNorm, and another BatchNorm that training keeps in eval mode."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.03), nn.BatchNorm2d(4))


def test_parameters_are_averaged_and_statistics_are_not() -> None:
    torch.manual_seed(0)
    model = Network()
    averaged = AveragedModel(model, window=20)
    before = deepcopy(averaged.ema.state_dict())
    expected = before["0.weight"]
    for step in range(1, 400):
        with torch.no_grad():
            model[0].weight.add_(0.01)
            model[1].running_mean.add_(1.0)
        averaged.update(model)
        decay = min(1 - 1 / 20, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model[0].weight
    assert averaged.updates == 399
    torch.testing.assert_close(averaged.ema[0].weight, expected.detach())
    assert torch.equal(averaged.ema[1].running_mean, before["1.running_mean"])
    lag = (model[0].weight - averaged.ema[0].weight).mean().item() / 0.01
    assert lag == pytest.approx(19, rel=0.05), "an average over 20 steps is 19 behind"


@pytest.mark.parametrize(("window", "every"), [(1, 1), (48, 3), (160, 8), (5000, 8)])
def test_statistics_are_those_of_its_own_inputs(window: float, every: int) -> None:
    torch.manual_seed(0)
    model = Network()
    averaged = AveragedModel(model, window=window, frozen={"2"})
    x = torch.rand(8, 3, 9, 9) + 2.0
    mean = averaged.ema[0](x).mean((0, 2, 3))
    for step in range(1, every + 1):
        assert torch.equal(averaged.ema[1].running_mean, torch.zeros(4))
        averaged.update(model)
        averaged.observe(x)
        assert averaged.ema[1].running_mean.abs().sum() > 0 or step < every
    torch.testing.assert_close(averaged.ema[1].running_mean, MOMENTUM * mean.detach())
    assert torch.equal(averaged.ema[2].running_mean, torch.zeros(4))
    assert averaged.ema[1].momentum == 0.03
    assert not any(module.training for module in averaged.ema.modules())
    assert torch.equal(model[1].running_mean, torch.zeros(4))
