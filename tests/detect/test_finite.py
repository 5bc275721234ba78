"""NaN stops a run before it reaches a checkpoint, and the message says where it begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from qreg_yolo.detect import QuantDetectionModel, QuantYOLO
from qreg_yolo.files import sha256
from qreg_yolo.training.finite import NonFiniteError, gradients_are_finite, where_it_begins

from .conftest import SETTINGS

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> QuantDetectionModel:
    torch.manual_seed(0)
    return QuantDetectionModel("yolov5n.yaml", nc=4, verbose=False)


def test_a_parameter_is_named(model: QuantDetectionModel) -> None:
    with torch.no_grad():
        model.model[4].cv1.conv.weight[3] = torch.nan
    assert where_it_begins(model, IMAGES) == "the parameter 'model.4.cv1.conv.weight'"


def test_the_first_layer_with_a_bad_output_is_named(model: QuantDetectionModel) -> None:
    with torch.no_grad():
        model.model[5].conv.weight.fill_(torch.finfo(torch.float32).max)
    assert where_it_begins(model, IMAGES) == "the output of layer 'model.5.conv' (Conv2d)"


def test_a_gradient_and_the_loss_are_named(model: QuantDetectionModel) -> None:
    assert gradients_are_finite(model)
    assert where_it_begins(model, IMAGES).startswith("the loss itself")
    weight = model.model[2].cv2.conv.weight
    weight.grad = torch.full_like(weight, torch.inf)
    assert not gradients_are_finite(model)
    assert where_it_begins(model, IMAGES).startswith("the gradient of 'model.2.cv2.conv.weight'")
    assert where_it_begins(model, torch.tensor([torch.nan])) == "the images of the batch"


def test_a_run_stops_and_keeps_its_last_checkpoint(tiny_data: Path, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    def poison(trainer: Any) -> None:
        if trainer.epoch == 1:
            seen["last"] = sha256(trainer.last)
            with torch.no_grad():
                trainer.model.model[7].conv.weight[0] = torch.nan

    model = QuantYOLO("yolov5n.yaml")
    model.add_callback("on_train_epoch_start", poison)
    settings = {**SETTINGS, "imgsz": 32, "epochs": 3, "project": str(tmp_path), "name": "run", "val": False}
    with pytest.raises(
        NonFiniteError, match=r"in epoch 2.*'model\.7\.conv\.weight'.*last good checkpoint is .*last\.pt"
    ):
        model.train(data=str(tiny_data), qreg={"bits": 4}, **settings)
    assert sha256(tmp_path / "run" / "weights" / "last.pt") == seen["last"]
