"""The networks that are timed: what they see, their loss, and which of their convolutions are quantized."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qreg_yolo.classify.models import build_model
from qreg_yolo.quant import QuantSpec, calibrate, quantize_model, quantized_layers

SEED = 0
BITS = 4


@dataclass(frozen=True)
class Task:
    """A network with everything one training step needs."""

    title: str
    """Network and input, for the heading."""
    limit: float
    """What `ours` may take, times fp32."""
    build: Callable[[], nn.Module]
    """Returns the float network, always with the same weights."""
    batch: Callable[[], Tensor]
    """Returns the input, always the same."""
    loss: Callable[[nn.Module, Tensor], Tensor]
    """Runs the forward pass and returns the scalar loss."""
    quantize: Callable[[nn.Module], object]
    """Puts our quantized layers in (not calibrated yet)."""
    subject: str = "ours"
    """The peer that the limit is for."""
    only: tuple[str, ...] = ()
    """The peers that go with this task alone; none: those of all tasks."""


def step(task: Task, model: nn.Module, batch: Tensor) -> Tensor:
    """Runs one forward and backward pass; returns the loss."""
    loss = task.loss(model, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def ours(task: Task) -> nn.Module:
    """Returns the network quantized and calibrated by this project."""
    model = task.build()
    task.quantize(model)
    calibrate(model, [task.batch()])
    return model


@dataclass(frozen=True)
class Range:
    """The grid of one quantizer, as calibrated by this project: what the other peers start from."""

    bits: int
    quant_min: int
    quant_max: int
    step_size: float


def calibrated_ranges(task: Task) -> dict[str, tuple[Range, Range]]:
    """Returns the weight's and the input's range of every quantized layer, by full name."""
    ranges = {}
    for name, layer in quantized_layers(ours(task)).items():
        weight, act = layer.weight_fake_quant, layer.input_fake_quant
        assert weight is not None
        assert act is not None
        ranges[name] = (
            Range(weight.bits, weight.quant_min, weight.quant_max, float(weight.get_parameter("step_size"))),
            Range(act.bits, act.quant_min, act.quant_max, float(act.get_parameter("step_size"))),
        )
    return ranges


# ---------------------------------------------------------------------------------------------- ResNet20


def _resnet20() -> nn.Module:
    return build_model("resnet20", 10, SEED).train()


def _resnet20_loss(model: nn.Module, batch: Tensor) -> Tensor:
    target = torch.arange(len(batch)) % 10
    return F.cross_entropy(model(batch), target)


def _quantize_resnet20(model: nn.Module) -> object:
    return quantize_model(model, QuantSpec(weight_bits=BITS, act_bits=BITS, exclude=("conv", "fc")))


# ---------------------------------------------------------------------------------------------- YOLOv5n


def _yolov5n() -> nn.Module:
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(SEED)
    model: nn.Module = DetectionModel("yolov5n.yaml", verbose=False)
    return model.train()


def _yolov5n_loss(model: nn.Module, batch: Tensor) -> Tensor:
    out = model(batch)
    parts = torch.stack([t.square().mean() for t in (*out["feats"], out["boxes"], out["scores"])])
    return parts.sum()


def _quantize_yolov5n(model: nn.Module) -> object:
    from qreg_yolo.detect.policy import first_last_layers, float_layers

    spec = QuantSpec(weight_bits=BITS, act_bits=BITS, first_last_bits=8)
    return quantize_model(model, spec, first_last_layers=first_last_layers(model), keep_float=float_layers(model))


# ---------------------------------------------------------------------------------------------- the two heads


def yolov5n_with(head: str) -> nn.Module:
    """Returns YOLOv5n for 20 classes in full precision, with a head and the loss that goes with it."""
    from types import SimpleNamespace

    from ultralytics.nn.tasks import yaml_model_load

    from qreg_yolo.detect import QuantDetectionModel
    from qreg_yolo.detect.quantization_config import QuantizationConfig

    description = yaml_model_load("yolov5n.yaml")
    QuantizationConfig.from_request({"bits": 32, "head": head}).write(description)
    torch.manual_seed(SEED)
    model: Any = QuantDetectionModel(description, nc=20, verbose=False)
    model.args = SimpleNamespace(imgsz=320, box=7.5, cls=0.5, dfl=1.5)
    trained: nn.Module = model.train()
    return trained


def _detection_loss(model: nn.Module, batch: Tensor) -> Tensor:
    """Runs the forward pass and the loss of the model's head on eight objects per image."""
    generator = torch.Generator().manual_seed(SEED)
    count = 8 * len(batch)
    centres, sizes = 0.1 + 0.8 * torch.rand(count, 2, generator=generator), torch.rand(count, 2, generator=generator)
    targets = {
        "img": batch,
        "batch_idx": torch.arange(float(len(batch))).repeat_interleave(8),
        "cls": (torch.arange(float(count)) % 20)[:, None],
        "bboxes": torch.cat((centres, 0.03 + 0.17 * sizes), 1),
    }
    loss: Tensor = model(targets)[0]
    return loss.sum()


def _images(n: int, size: int) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(SEED))


TASKS = {
    "resnet20": Task(
        "ResNet20, batch 128x3x32x32, cross-entropy; W4A4 on the 18 inner convolutions",
        1.35,
        _resnet20,
        lambda: _images(128, 32) * 2 - 1,
        _resnet20_loss,
        _quantize_resnet20,
    ),
    "yolov5n": Task(
        "YOLOv5n (Ultralytics yolov5n.yaml), batch 4x3x320x320, mean square of the outputs; W4A4, first and output "
        "convolutions W8A8, DFL fp32",
        1.45,
        _yolov5n,
        lambda: _images(4, 320),
        _yolov5n_loss,
        _quantize_yolov5n,
    ),
    "heads": Task(
        "YOLOv5n for 20 classes in full precision, batch 4x3x320x320, 8 objects per image, each head with its own "
        "loss: Ultralytics' (fp32) and YOLOv5's",
        1.0,
        lambda: yolov5n_with("anchor_free"),
        lambda: _images(4, 320),
        _detection_loss,
        lambda model: None,
        subject="anchor head",
        only=("fp32", "fp32 again", "anchor head"),
    ),
}
