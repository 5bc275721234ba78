"""Small float detectors with a teacher, and their losses."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.utils import DEFAULT_CFG

from qreg_yolo.config.distillation import DistillOptions
from qreg_yolo.detect import QuantDetectionModel
from qreg_yolo.detect.distillation import (
    Distiller,
)
from qreg_yolo.detect.teacher import Teacher
from tests.detect.factories import END_TO_END, build

HEADS: list[dict[str, Any]] = [{}, {"head": "anchor"}, {"model": END_TO_END}]


def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {
        "img": torch.rand(4, 3, 64, 64, generator=generator),
        "batch_idx": torch.arange(4.0).repeat_interleave(2),
        "cls": torch.tensor([0.0, 1, 2, 3, 0, 1, 2, 3])[:, None],
        "bboxes": torch.rand(8, 4, generator=generator) * 0.4 + 0.3,
    }


def network(seed: int, **request: Any) -> QuantDetectionModel:
    """Returns a float detector, whose activations BatchNorm scales as after training."""
    torch.manual_seed(seed)
    model = build(bits=32, **request)
    model.args = deepcopy(DEFAULT_CFG)
    model.args.imgsz = 64
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # the mean over all batches
        model.train()(batch()["img"])
    return model.eval()


def distiller(student: QuantDetectionModel, teacher: QuantDetectionModel, **options: Any) -> Distiller:
    teacher.eval().requires_grad_(False)
    teacher.model[-1].training = True
    found = Distiller(Teacher(teacher, DistillOptions(teacher="t.pt", **options)), student, seed=0)
    found.attach()
    return found


def distilled(student: QuantDetectionModel) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns loss and terms of a student whose BatchNorm has the statistics of inference, as the teacher's."""
    student.eval()
    student.model[-1].training = True
    loss, items = student.loss(batch())
    return loss, items


def gradient_norm(model: nn.Module) -> float:
    return float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))
