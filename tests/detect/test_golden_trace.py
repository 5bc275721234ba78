"""Twenty training steps with a fixed seed: a refactor leaves the losses equal, a numeric change updates them here.

In float64, where no rounding difference of another machine or thread count moves a weight to another code.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from qreg_yolo.quant import StepSizeRule, calibrate, quantizer_parameter_groups
from qreg_yolo.quant.optim import split_quantizer_parameters

from .test_model import build

GOLDEN = {
    "lsq-w4a4": [61.171482, 60.608475, 60.650482, 59.724319],
    "lsq-w2a2": [61.281578, 61.726151, 61.464325, 61.767368],
    "lsqplus-w2a2": [61.14444, 61.089645, 61.116985, 60.629623],
    "pact-w4a4": [61.389832, 61.81567, 61.189468, 61.468979],
    "dorefa-w4": [60.543541, 58.232384, 50.389618, 29.653164],
}
"""Loss of steps 5, 10, 15 and 20."""


def _batch() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(5)
    boxes = torch.rand(8, 4, generator=generator) * 0.4 + 0.3
    return {
        "img": torch.rand(4, 3, 64, 64, generator=generator).double(),
        "batch_idx": torch.arange(4.0).repeat_interleave(2),
        "cls": torch.tensor([0.0, 1, 2, 3, 0, 1, 2, 3])[:, None],
        "bboxes": boxes,
    }


def trace(**request: Any) -> list[float]:
    """Returns the loss of every fifth step."""
    torch.manual_seed(0)
    model = build(**request).double()
    calibrate(model, [_batch()["img"]])
    model.train()
    model.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5, overlap_mask=True)
    weights = split_quantizer_parameters(model, (p for n, p in model.named_parameters() if ".dfl" not in n))
    groups = [{"params": weights}, *quantizer_parameter_groups(model, weight_decay=5e-4, lr=0.002)]
    optimizer = torch.optim.SGD(groups, lr=0.002, momentum=0.9, weight_decay=5e-4)
    StepSizeRule(model).attach(optimizer)
    losses = []
    for step in range(20):
        optimizer.zero_grad()
        loss = model(_batch())[0].sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        if step % 5 == 4:
            losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize(
    ("name", "request_"),
    [
        ("lsq-w4a4", {"bits": 4}),
        ("lsq-w2a2", {"bits": 2}),
        ("lsqplus-w2a2", {"bits": 2, "method": "lsq+"}),
        ("pact-w4a4", {"bits": 4, "method": "pact", "activation": "relu"}),
        ("dorefa-w4", {"bits": 4, "method": "dorefa", "weight_only": True}),
    ],
)
def test_losses_are_the_golden_ones(name: str, request_: dict[str, Any]) -> None:
    losses = trace(**request_)
    assert losses == pytest.approx(GOLDEN[name], rel=1e-6), losses
