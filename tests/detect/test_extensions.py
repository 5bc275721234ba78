"""Calls of a detector's extensions by its trainer: progress, the factor of its gradients, and the averaged model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qreg_yolo.detect import QuantDetectionTrainer, QuantYOLO
from qreg_yolo.detect.quantization_config import QuantizationConfig
from qreg_yolo.training.extensions import Extension, Extensions
from tests import TINY
from tests.detect.conftest import SETTINGS
from tests.detect.factories import calibrated


class Recorder(Extension):
    """Notes what it is told."""

    name = "recorder"

    def __init__(self) -> None:
        self.told: list[tuple[float, float]] = []
        self.averaged: list[nn.Module | None] = []

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        del optimizer

    def before_step(self, progress: float, scale: float) -> None:
        self.told.append((progress, scale))

    def after_step(self, averaged: nn.Module | None) -> None:
        self.averaged.append(averaged)

    def columns(self) -> dict[str, float]:
        return {"recorder/steps": float(len(self.told))}

    def state(self) -> dict[str, Tensor]:
        return {}

    def restore(self, state: Any) -> None:
        del state


def test_steps_of_accumulated_batches(tiny_data: Path, tmp_path: Path) -> None:
    """Eight images in four batches; an epoch of warm-up, then two batches per step."""
    recorder = Recorder()

    class Recorded(QuantDetectionTrainer):
        def build_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
            optimizer = super().build_optimizer(*args, **kwargs)
            self.extensions = Extensions(recorder)
            return optimizer

    model = QuantYOLO(TINY)
    settings = {**SETTINGS, "imgsz": 32, "batch": 2, "nbs": 4, "epochs": 2, "val": False, "name": "run"}
    model.train(trainer=Recorded, data=str(tiny_data), qreg={"bits": 4}, project=str(tmp_path), **settings)
    batches = [scale / 2 for _, scale in recorder.told]
    assert batches[0] == 1, "the first batches of the warm-up are steps by themselves"
    assert set(batches) == {1, 2}
    done = [sum(batches[: number + 1]) for number in range(len(batches))]
    assert [progress for progress, _ in recorder.told] == pytest.approx([count / 8 for count in done])
    assert all(one is model.trainer.ema.ema for one in recorder.averaged)
    assert "recorder/steps" in (tmp_path / "run" / "results.csv").read_text()


@pytest.mark.parametrize("head", ["anchor_free", "anchor"])
def test_a_detectors_loss_sums_over_its_images(head: str) -> None:
    """Twice the same images have twice the loss: the factor that `before_step` is told."""
    model = calibrated(bits=4, head=head).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    model.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5, overlap_mask=True, imgsz=64)
    generator = torch.Generator().manual_seed(5)
    once = {
        "img": torch.rand(2, 3, 64, 64, generator=generator),
        "batch_idx": torch.arange(2.0).repeat_interleave(20),  # many: Ultralytics divides by their scores, if above 1
        "cls": (torch.arange(40.0) % 4)[:, None],
        "bboxes": torch.rand(40, 4, generator=generator) * 0.4 + 0.3,
    }
    twice = {name: torch.cat([value, value]) for name, value in once.items()}
    twice["batch_idx"] = torch.arange(4.0).repeat_interleave(20)
    one, two = (model(dict(batch))[0].sum().item() for batch in (once, twice))
    assert two == pytest.approx(2 * one, rel=1e-4)


def test_a_request_may_hold_weights_and_is_checked() -> None:
    QuantizationConfig.from_request({"bits": 4, "oscillation": {"dampen": 0.1}})
    with pytest.raises(ValueError, match=r"oscillation has no 'dampn'\. Did you mean 'dampen'"):
        QuantizationConfig.from_request({"oscillation": {"dampn": 0.1}})
    with pytest.raises(ValueError, match="method=dorefa"):
        QuantizationConfig.from_request({"method": "dorefa", "oscillation": {"dampen": 0.1}})
