"""The noise report of a detector's checkpoint, and its logging in training."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from ultralytics.nn.tasks import DetectionModel

from qreg_yolo.datasets.demo.scene import CLASS_NAMES
from qreg_yolo.detect.anchor_head import AnchorDetect
from qreg_yolo.detect.checkpoint import load_weights
from qreg_yolo.detect.noise import BatchLoss, DetectorNoiseRequest, measure, raw_outputs
from qreg_yolo.detect.quantization_config import QuantizationConfig
from qreg_yolo.detect.safetensors_checkpoint import save_safetensors
from qreg_yolo.detect.trainer import QuantDetectionTrainer
from qreg_yolo.errors import DataError
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.noise.jacobian import along, first_derivative, second_derivative, squared_norms, weights_exposed
from qreg_yolo.noise.sweep import Sweep
from qreg_yolo.quant.weight_noise import float_weight, layer_noise, pooled
from qreg_yolo.training.extensions import Extensions
from tests.detect.conftest import train_tiny
from tests.detect.factories import calibrated

QUICK = Sweep(methods=("lsq",), bits=(8,), draws=4)


@pytest.fixture(scope="module", params=["anchor_free", "anchor"])
def checkpoint(request: pytest.FixtureRequest, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns an untrained W4A4 detector whose BatchNorm has seen images, so that they reach its outputs."""
    model = calibrated(nc=len(CLASS_NAMES), bits=4, head=request.param)
    model.names = dict(enumerate(CLASS_NAMES))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 0.5
    model.train()
    with torch.no_grad():
        for seed in range(6):
            model(torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(seed)))
    path = tmp_path_factory.mktemp("noise") / "w4a4.safetensors"
    save_safetensors(model.eval(), path, {"data": str(tiny_data), "imgsz": 64, "batch": 4})
    return path


def report(weights: Path, **options: Any) -> dict[str, Any]:
    return measure(
        DetectorNoiseRequest(weights=weights, **{"sweep": QUICK, "limit": 1, "threads": 1, "device": "cpu", **options})
    )


def test_a_quantized_detector(checkpoint: Path) -> None:
    found = report(checkpoint)
    assert (found["track"], found["label"], found["split"], found["n_images"]) == ("detect", "lsq-w4a4", "train", 1)
    own, swept = found["rows"]
    assert (own["trained"], own["method"], own["bits"]) == (True, "lsq", 4)
    model, _ = load_weights(checkpoint)
    assert own["sigma2"] == pooled(layer_noise(model).values()).sigma2
    layers = 15 if isinstance(model.model[-1], AnchorDetect) else 30
    assert len(own["layers"]) == len(swept["layers"]) == layers, "all but DFL"
    loss = swept["losses"]["detection"]
    assert loss["predicted"]["value"] != 0, "of either sign: the box loss is not convex in its outputs"
    assert loss["loss"] > 0
    assert own["gradient_norm"]["value"] > 0


def test_a_float_checkpoint_of_the_host(plain: DetectionModel, tiny_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "plain.safetensors"
    save_safetensors(plain, path, {"data": str(tiny_data), "imgsz": 64})
    found = report(path, losses=False)
    assert [row["trained"] for row in found["rows"]] == [False]
    assert found["rows"][0]["sigma2"] == pytest.approx(found["rows"][0]["sigma2_uniform"], rel=0.03)
    assert "data" not in found


def test_raw_outputs_and_the_loss_are_those_of_training(checkpoint: Path) -> None:
    """What Ultralytics' own training step computes, from the joined raw outputs, as derivatives see it."""
    from ultralytics.utils import IterableSimpleNamespace

    model, _ = load_weights(checkpoint)
    model.args = IterableSimpleNamespace(**model.args)
    generator = torch.Generator().manual_seed(0)
    batch = {
        "img": torch.rand(2, 3, 64, 64, generator=generator),
        "batch_idx": torch.tensor([0.0, 1.0, 1.0]),
        "cls": torch.tensor([[0.0], [1.0], [0.0]]),
        "bboxes": torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.3, 0.3, 0.3, 0.2], [0.7, 0.6, 0.3, 0.5]]),
    }
    loss = BatchLoss(model)
    target = loss.target(batch)
    assert not model.model[-1].training
    names = list(layer_noise(model))
    with weights_exposed(model):
        weights, outputs = {name: float_weight(model, name) for name in names}, raw_outputs(model)
        y, dy, _ = along(outputs, weights, batch["img"], weights)
        model.model[-1].training = True
        expected = model.init_criterion()(model(batch["img"]), batch)[0].sum() / 2
        assert float(loss(y, target)) == pytest.approx(float(expected), rel=1e-5)
        assert math.isfinite(float(second_derivative(lambda z: loss(z, target), y, dy)))
        # The gradient holds a weight within CIoU constant, a derivative along a way does not: without the box loss.
        model.args.box = 0.0
        if isinstance(model.model[-1], AnchorDetect):
            loss._criterion.gains = (0.0, *loss._criterion.gains[1:])
        slope = first_derivative(lambda z: loss(z, target), y, dy)
        leaf = y.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(leaf, target).sum(), leaf)
        terms = (gradient * dy).double()
        assert float(slope) == pytest.approx(float(terms.sum()), abs=1e-5 * float(terms.abs().sum()))
        norms = squared_norms(outputs, weights, batch["img"], generator)
    assert norms.shape == (2, len(names))
    assert bool((norms.sum(1) > 0).all())


def test_what_cannot_be_measured(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="limit=0: give 1 or more"):
        report(checkpoint, limit=0)
    with pytest.raises(ConfigError, match="imgsz=50 is not a multiple"):
        report(checkpoint, imgsz=50)
    with pytest.raises(FileNotFoundError):
        report(checkpoint, data=str(tmp_path / "none.yaml"))
    with pytest.raises(DataError, match="'test'"):
        report(checkpoint, split="test")


def test_weight_noise_is_logged_where_that_is_asked_for(tiny_data: Path, tmp_path: Path) -> None:
    run = train_tiny(tiny_data, tmp_path, {"bits": 2, "log_noise": True}, epochs=1)
    with (run.save_dir / "results.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    columns = [name for name in row if name.partition("/")[0].startswith(("noise", "clipped"))]
    assert len(columns) == 8 * (30 + 1)
    assert float(row["noise/total"]) > 0
    assert 0 < float(row["clipped/model.1.conv"]) < 1
    assert "log_noise" not in run.model.yaml["qreg"], "it says nothing about the quantization"


@pytest.mark.parametrize("request_", [None, {"bits": 4}, {"bits": 4, "log_noise": False}])
def test_weight_noise_is_not_logged_otherwise(request_: dict[str, Any] | None, tmp_path: Path) -> None:
    class Stub(QuantDetectionTrainer):
        def __init__(self) -> None:
            self.args, self.csv, self.epoch, self.train_time_start = SimpleNamespace(qreg=request_), table, 0, 0.0
            self.validator = SimpleNamespace(n_objects=1)
            self.extensions, self.zero = Extensions(), None

    table = tmp_path / "results.csv"
    Stub().save_metrics({"loss": 1.0})
    assert table.read_text().splitlines()[0] == "epoch,time,loss"


def test_log_noise_is_true_or_false() -> None:
    with pytest.raises(TypeError, match="log_noise must be true or false, not 'yes'"):
        QuantizationConfig.from_request({"log_noise": "yes"}, pretrained=False)
