"""NaN stops a run before it reaches a checkpoint, and the message says where it begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from qreg_yolo.detect import QuantDetectionModel, QuantYOLO
from qreg_yolo.io.files import sha256
from qreg_yolo.training.finite import NonFiniteError, diagnosis, first_nonfinite, norm_is_finite
from tests import TINY
from tests.detect.conftest import SETTINGS, ultralytics_warnings

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> QuantDetectionModel:
    torch.manual_seed(0)
    return QuantDetectionModel("yolov5n.yaml", nc=4, verbose=False)


def test_a_parameter_is_named(model: QuantDetectionModel) -> None:
    with torch.no_grad():
        model.model[4].cv1.conv.weight[3] = torch.nan
    assert first_nonfinite(model, IMAGES) == "the parameter 'model.4.cv1.conv.weight'"


def test_the_first_layer_with_a_bad_output_is_named(model: QuantDetectionModel) -> None:
    with torch.no_grad():
        model.model[5].conv.weight.fill_(torch.finfo(torch.float32).max)
    assert first_nonfinite(model, IMAGES) == "the output of layer 'model.5.conv' (Conv2d)"


def test_the_loss_a_gradient_and_their_norm_are_told_apart(model: QuantDetectionModel) -> None:
    fine, broken = torch.tensor(1.0), torch.tensor(torch.nan)
    assert norm_is_finite(model, [fine])
    assert diagnosis(model, [fine], IMAGES) is None
    assert not norm_is_finite(model, [fine, broken])
    assert diagnosis(model, [fine, broken], IMAGES) == (
        "the loss is not finite. It begins at the loss itself (every layer's output is finite)"
    )
    assert diagnosis(model, [broken], torch.tensor([torch.nan])) == (
        "the loss is not finite. It begins at the images of the batch"
    )
    early, late = model.model[2].cv2.conv.weight, model.model[7].conv.weight
    early.grad, late.grad = torch.full_like(early, 3e37), torch.full_like(late, -3e37)
    assert not norm_is_finite(model, [fine]), "the squares do not overflow float32"
    assert diagnosis(model, [fine], IMAGES) is None, "every gradient is finite"
    early.grad = torch.full_like(early, torch.inf)
    assert diagnosis(model, [fine], IMAGES) == ("the loss is finite, but not the gradient of 'model.2.cv2.conv.weight'")
    late.grad = torch.full_like(late, torch.nan)
    found = diagnosis(model, [fine], IMAGES)
    assert found is not None
    assert "'model.7.conv.weight'" in found, "gradients come from the end of the network"


def test_training_goes_on_where_only_the_norm_overflows(tiny_data: Path, tmp_path: Path) -> None:
    """So it does in Ultralytics, whose clipping makes the step 0."""

    def explode(trainer: Any) -> None:
        weight = trainer.model.model[5].conv.weight
        weight.register_hook(lambda gradient: gradient.clamp(1e37, 1e38))

    model = QuantYOLO(TINY)
    model.add_callback("on_train_start", explode)
    settings = {**SETTINGS, "imgsz": 32, "epochs": 1, "project": str(tmp_path), "name": "run", "val": False}
    with ultralytics_warnings() as said:
        model.train(data=str(tiny_data), qreg={"bits": 4}, **settings)
    assert sum("overflows float32" in line for line in said) == 1


def test_a_run_stops_and_keeps_its_last_checkpoint(tiny_data: Path, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    def poison(trainer: Any) -> None:
        if trainer.epoch == 1:
            seen["last"] = sha256(trainer.last)
            with torch.no_grad():
                trainer.model.model[5].conv.weight[0] = torch.nan

    model = QuantYOLO(TINY)
    model.add_callback("on_train_epoch_start", poison)
    settings = {**SETTINGS, "imgsz": 32, "epochs": 3, "project": str(tmp_path), "name": "run", "val": False}
    with pytest.raises(
        NonFiniteError, match=r"in epoch 2.*'model\.5\.conv\.weight'.*last good checkpoint is .*last\.pt"
    ):
        model.train(data=str(tiny_data), qreg={"bits": 4}, **settings)
    assert sha256(tmp_path / "run" / "weights" / "last.pt") == seen["last"]
