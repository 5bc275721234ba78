"""BatchNorm statistics, estimated anew."""

from __future__ import annotations

import torch
from torch import nn

from qreg_yolo.training.batch_norm import reestimate


def test_the_statistics_are_the_means_over_the_batches() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(3, momentum=0.03), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    weight = model[1].weight.clone()
    batches = [torch.randn(5, 3, 4, 4) * scale + scale for scale in (1.0, 2.0, 4.0)]
    assert reestimate(model, iter(batches), lambda net, x: net(x)) == 3
    means = torch.stack([x.mean((0, 2, 3)) for x in batches]).mean(0)
    variances = torch.stack([x.transpose(0, 1).flatten(1).var(1) for x in batches]).mean(0)
    torch.testing.assert_close(model[0].running_mean, means)
    torch.testing.assert_close(model[0].running_var, variances)
    assert model[0].momentum == 0.03
    assert not any(module.training for module in model.modules())
    assert torch.equal(model[1].weight, weight)
    hidden = [model[1](nn.functional.batch_norm(x, None, None, model[0].weight, model[0].bias, True)) for x in batches]
    torch.testing.assert_close(model[2].running_mean, torch.stack([h.mean((0, 2, 3)) for h in hidden]).mean(0))
