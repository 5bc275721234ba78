"""Detectors that are built, calibrated and never trained."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from ultralytics.nn.tasks import yaml_model_load
from ultralytics.utils import YAML

from qreg_yolo.detect import QuantDetectionModel
from qreg_yolo.detect.quantization_config import QuantizationConfig
from qreg_yolo.quant import calibrate
from tests import TINY

END_TO_END: dict[str, Any] = {**YAML.load(TINY), "yaml_file": TINY, "end2end": True, "reg_max": 1}
"""A model description with the head of YOLO26: a second branch that needs no NMS, and boxes without DFL."""


def build(
    nc: int = 4, pretrained: bool = False, model: str | dict[str, Any] = TINY, **request: Any
) -> QuantDetectionModel:
    """Returns a quantized, not yet calibrated detector."""
    cfg = yaml_model_load(model) if isinstance(model, str) else deepcopy(model)
    QuantizationConfig.from_request(request, pretrained=pretrained).write(cfg)
    return QuantDetectionModel(cfg, nc=nc, verbose=False)


def calibrated(**request: Any) -> QuantDetectionModel:
    """Returns a detector that can run, calibrated on noise."""
    torch.manual_seed(0)
    model = build(**request)
    calibrate(model, [torch.rand(2, 3, 64, 64)])
    model.record_plan()
    return model.eval()


def images() -> Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
