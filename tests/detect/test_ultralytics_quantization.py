"""Ultralytics' own quantization beside ours: refused, or warned about."""

from __future__ import annotations

import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from ultralytics.engine.exporter import Exporter, export_formats
from ultralytics.nn.tasks import DetectionModel

from qreg_yolo.detect import QuantDetectionModel, QuantYOLO
from qreg_yolo.detect.trainer import QuantDetectionTrainer
from tests import TINY
from tests.detect.conftest import Trained, ultralytics_warnings
from tests.detect.factories import build

pytestmark = pytest.mark.usefixtures("torch_on_one_thread")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"quantize": 8}, "bits"),
        ({"quantize": "w8a16"}, "bits"),
        ({"int8": True}, "bits"),
        ({"half": True}, "float32"),
        ({"quantize": 16}, "float32"),
    ],
    ids=str,
)
def test_the_hosts_own_quantization_is_refused(arguments: dict[str, Any], words: str, trained: Trained) -> None:
    model = QuantYOLO(str(trained.best))
    for call in (model.val, model.export, model.train, lambda **more: model.predict(torch.zeros(1, 3, 32, 32), **more)):
        with pytest.raises(ValueError, match=words):
            call(**arguments)
    with pytest.raises(ValueError, match=words):
        QuantDetectionTrainer(overrides={"model": TINY, "qreg": {"bits": 4}, **arguments})


@pytest.mark.parametrize("kind", export_formats()["Argument"][1:])
def test_no_format_is_exported_and_no_file_is_left(
    kind: str, quantized: QuantDetectionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `yolo export` does it: the model itself refuses, whatever the format, unless the machine cannot have it."""
    monkeypatch.chdir(tmp_path)
    model = deepcopy(quantized)
    model.pt_path, model.task = str(tmp_path / "best.pt"), "detect"
    machine = "device=0|Hailo export currently supports|Edge TPU"  # Ultralytics refuses before it asks the model
    with pytest.raises((NotImplementedError, ValueError, SystemError), match=f"cannot be exported yet|{machine}"):
        Exporter(overrides={"format": kind, "imgsz": 64, "batch": 1})(model=model)
    assert list(tmp_path.iterdir()) == []


def test_the_facade_refuses_to_export(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = set(trained.best.parent.iterdir())
    with pytest.raises(NotImplementedError, match="cannot be exported yet"):
        QuantYOLO(str(trained.best)).export(format="torchscript")
    assert set(trained.best.parent.iterdir()) == before


def test_a_float_model_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's tracing
        path = QuantYOLO(TINY).export(format="torchscript", imgsz=32)
    assert Path(path).is_file()


def test_what_switches_it_off_is_taken(trained: Trained) -> None:
    model = QuantYOLO(str(trained.best))
    result = model.predict(torch.rand(1, 3, 32, 32), imgsz=32, verbose=False, half=False, int8=False)
    assert len(result) == 1


def test_a_model_of_the_host_that_takes_quantized_weights_is_warned_about(
    plain: DetectionModel, quantized: QuantDetectionModel
) -> None:
    """What Ultralytics' own trainer does with our checkpoint."""
    source, target = deepcopy(quantized), deepcopy(plain)
    with ultralytics_warnings() as said:
        source.info(verbose=True)
        source.fuse()
        build(bits=4).load(source, verbose=False)
        build(bits=2).load(source, verbose=False)
        assert not [line for line in said if "full precision" in line]
        target.load(source)
    warnings = [line for line in said if "full precision" in line]
    assert len(warnings) == 1
    assert "qreg-yolo train --weights" in warnings[0]
    assert torch.equal(target.model[1].conv.weight, source.model[1].conv.weight)
