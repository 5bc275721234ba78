"""Ten training steps (slow: twenty) of a fixed seed: a refactor leaves the losses equal, a numeric change updates them.

In float64, where no rounding difference of another machine or thread count moves a weight to another code, and without
exact ties, which the last bit would break: MKL sums in another order on each kind of CPU.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from ultralytics.nn.modules import SPPF

from qreg_yolo.quant import StepSizeRule, calibrate, quantizer_parameter_groups
from qreg_yolo.quant.optim import split_quantizer_parameters
from tests.detect.factories import build

GOLDEN = {
    "lsq-w4a4": [61.088333, 60.576065, 59.919891, 58.474812],
    "lsq-w2a2": [61.41573, 61.305607, 61.525753, 61.332233],
    "lsqplus-w2a2": [61.515278, 61.218296, 61.094826, 60.629173],
    "pact-w4a4": [61.589733, 61.500904, 61.196159, 61.332619],
    "dorefa-w4": [59.136951, 54.709629, 37.775322, 22.532368],
}
"""Loss of steps 5, 10, 15 and 20.

The same with MKL_CBWR=AVX512, AVX2, AVX or SSE4_2, one thread or two, and ATEN_CPU_CAPABILITY=avx512 or avx2; without
AVX2, torch draws other initial weights.
"""


def _batch() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(5)
    boxes = torch.rand(8, 4, generator=generator) * 0.4 + 0.3
    return {
        "img": torch.rand(4, 3, 64, 64, generator=generator).double(),
        "batch_idx": torch.arange(4.0).repeat_interleave(2),
        "cls": torch.tensor([0.0, 1, 2, 3, 0, 1, 2, 3])[:, None],
        "bboxes": boxes,
    }


def without_ties(model: nn.Module) -> nn.Module:
    """Returns the model, changed so that its gradient doesn't hang on the last bit of a sum.

    Sums of codes are often equal. Where a maximum is pooled, the last bit says which of them has the gradient. Where
    one is the channel's mean and BatchNorm adds nothing, it says which side of 0 the result lies on, where ReLU has its
    kink and an unsigned quantizer clips.
    """
    for module in list(model.modules()):
        if isinstance(module, SPPF):
            module.m = nn.AvgPool2d(5, stride=1, padding=2)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model


def trace(steps: int, **request: Any) -> list[float]:
    """Returns the loss of every fifth step."""
    torch.manual_seed(0)
    model = without_ties(build(model="yolov5n.yaml", **request)).double()
    calibrate(model, [_batch()["img"]])
    model.train()
    model.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5, overlap_mask=True)
    weights = split_quantizer_parameters(model, (p for n, p in model.named_parameters() if ".dfl" not in n))
    groups = [{"params": weights}, *quantizer_parameter_groups(model, weight_decay=5e-4, lr=0.002)]
    optimizer = torch.optim.SGD(groups, lr=0.002, momentum=0.9, weight_decay=5e-4)
    StepSizeRule(model).attach(optimizer)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        loss = model(_batch())[0].sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        if step % 5 == 4:
            losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("steps", [10, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("name", "request_"),
    [
        ("lsq-w4a4", {"bits": 4}),
        ("lsq-w2a2", {"bits": 2}),
        ("lsqplus-w2a2", {"bits": 2, "method": "lsq+", "offset": "float"}),
        ("pact-w4a4", {"bits": 4, "method": "pact", "activation": "relu"}),
        ("dorefa-w4", {"bits": 4, "method": "dorefa", "weight_only": True}),
    ],
)
def test_losses_are_the_golden_ones(name: str, request_: dict[str, Any], steps: int) -> None:
    losses = trace(steps, **request_)
    assert losses == pytest.approx(GOLDEN[name][: steps // 5], rel=1e-6), losses
