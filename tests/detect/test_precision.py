"""bfloat16 on the CPU: convolutions in bf16, quantizers, losses and validation in fp32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from ultralytics.nn.tasks import yaml_model_load

from qreg_yolo.detect import QuantDetectionModel, QuantYOLO, precision
from qreg_yolo.detect.checkpoint import load_weights
from qreg_yolo.detect.quantization_config import QuantizationConfig
from qreg_yolo.quant import quantized_layers
from qreg_yolo.training import environment as hardware
from tests import TINY
from tests.detect.conftest import SETTINGS
from tests.detect.factories import calibrated


def _in_training(model: nn.Module, image: torch.Tensor) -> tuple[dict[str, Any], list[torch.dtype], list[torch.dtype]]:
    """Returns the raw predictions, and the dtypes of convolutions' and weight quantizers' outputs."""
    convolutions: list[torch.dtype] = []
    weights: list[torch.dtype] = []
    handles = []
    for layer in quantized_layers(model).values():
        handles.append(layer.register_forward_hook(lambda m, i, o: convolutions.append(o.dtype)))
        handles.append(layer.weight_fake_quant.register_forward_hook(lambda m, i, o: weights.append(o.dtype)))
    predictions = model(image)
    for handle in handles:
        handle.remove()
    return predictions, convolutions, weights


def float_section() -> dict[str, Any]:
    model_yaml: dict[str, Any] = {}
    QuantizationConfig.from_request({"bits": 32}, pretrained=False).write(model_yaml)
    return dict(model_yaml["qreg"])


def _tensors(output: Any) -> list[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        return [output]
    values = output.values() if isinstance(output, dict) else output if isinstance(output, (list, tuple)) else ()
    return [tensor for value in values for tensor in _tensors(value)]


def test_training_runs_convolutions_in_bf16_and_nothing_else() -> None:
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    model = calibrated(bits=4).train()
    _, convolutions, _ = _in_training(model, image)
    assert set(convolutions) == {torch.float32}
    model.yaml["qreg"]["precision"] = "bf16"
    mixed, convolutions, weights = _in_training(model, image)
    assert set(convolutions) == {torch.bfloat16}
    assert set(weights) == {torch.float32}, "a weight's codes were computed in bf16"
    assert {t.dtype for t in _tensors(mixed)} == {torch.float32}, "the loss would see bf16"
    sum(t.square().mean() for t in _tensors(mixed)).backward()
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}
    model.eval()
    _, convolutions, _ = _in_training(model, image)
    assert set(convolutions) == {torch.float32}, "validation ran in bf16"
    with torch.no_grad():
        _, convolutions, _ = _in_training(model.train(), image)
    assert set(convolutions) == {torch.float32}, "calibration would run in bf16"


def test_bf16_is_close_to_fp32() -> None:
    """Without quantizers: theirs would amplify each rounding that moves a value over the edge between two codes."""
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = QuantDetectionModel({**yaml_model_load("yolov5n.yaml"), "qreg": float_section()}, nc=4, verbose=False)
    plain = model(image)
    model.yaml["qreg"]["precision"] = "bf16"
    mixed = model(image)
    for name in ("boxes", "scores"):
        one, two = plain[name].detach(), mixed[name].detach()
        assert not torch.equal(one, two)
        relative = float((one - two).norm() / one.norm())
        assert relative < 0.1, f"{name}: {relative:.3f} after some sixty roundings to 2^-9 = 0.002"


def test_a_run_in_bf16_says_so_wherever_it_is_recorded(tiny_data: Path, tmp_path: Path) -> None:
    model = QuantYOLO(TINY)
    settings = {**SETTINGS, "imgsz": 32, "epochs": 1, "project": str(tmp_path), "name": "run", "amp": "bf16"}
    model.train(data=str(tiny_data), qreg={"bits": 4}, device="cpu", **settings)
    trained, _ = load_weights(tmp_path / "run" / "weights" / "best.pt")
    assert QuantizationConfig.read(trained.yaml).precision == "bf16"
    assert {t.dtype for t in trained.state_dict().values() if t.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize(("flags", "has"), [("avx2 avx512f", False), ("avx512_bf16 x", True), ("amx_bf16", True)])
def test_auto_and_the_hint_follow_the_hardware(flags: str, has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware.Path, "is_file", lambda self: True)
    monkeypatch.setattr(hardware.Path, "read_text", lambda self, **_: f"flags : {flags}\n")
    assert hardware.cpu_has_bf16() is has
    assert precision.resolve_amp("auto", "cpu") == ("bf16" if has else False)
    assert precision.resolve_amp(False, "cpu") is False
    assert ("--amp bf16" in (precision.amp_hint(False, "cpu") or "")) is has
    assert ("--amp off" in (precision.amp_hint("bf16", "cpu") or "")) is not has
    assert precision.amp_hint(False, "0") is None
