"""The host's own quantization beside ours: refused, or warned about."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from ultralytics.nn.tasks import DetectionModel

from qreg_yolo.detect import QuantDetectionModel, QuantYOLO
from qreg_yolo.detect.trainer import QuantDetectionTrainer

from .conftest import Trained, host_warnings
from .test_model import build

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
        QuantDetectionTrainer(overrides={"model": "yolov5n.yaml", "qreg": {"bits": 4}, **arguments})


def test_what_switches_it_off_is_taken(trained: Trained) -> None:
    model = QuantYOLO(str(trained.best))
    result = model.predict(torch.rand(1, 3, 32, 32), imgsz=32, verbose=False, half=False, int8=False)
    assert len(result) == 1


def test_a_model_of_the_host_that_takes_quantized_weights_is_warned_about(
    plain: DetectionModel, quantized: QuantDetectionModel
) -> None:
    """What Ultralytics' own trainer does with our checkpoint."""
    source, target = deepcopy(quantized), deepcopy(plain)
    with host_warnings() as said:
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
