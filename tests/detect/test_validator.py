"""The validator's NMS: Ultralytics stops at a time limit, and a measured mAP must not depend on the clock."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ultralytics.models.yolo.detect import DetectionValidator

from qreg_yolo.datasets.classes import ClassMap
from qreg_yolo.detect.validator import QuantDetectionValidator

IMAGES, CLASSES, PLACES = 3, 5, 40


def predictions() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(IMAGES, 4, PLACES, generator=generator) * torch.tensor([300, 300, 40, 40])[:, None]
    return torch.cat([boxes, torch.rand(IMAGES, CLASSES, PLACES, generator=generator)], 1)


@pytest.mark.parametrize("classes", [None, ClassMap((4, 2), ("bird", "cat"))])
def test_no_image_is_left_out_when_the_clock_jumps(
    classes: ClassMap | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def validator(kind: type[DetectionValidator], **options: ClassMap | None) -> DetectionValidator:
        made = kind(save_dir=tmp_path, args={"task": "detect", "conf": 0.1}, **options)
        made.end2end, made.nc = False, CLASSES
        return made

    ours = validator(QuantDetectionValidator, classes=classes)
    expected = ours.postprocess(predictions())
    assert all(len(image["conf"]) > 0 for image in expected)
    clock = itertools.count(step=10)
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    stock = validator(DetectionValidator).postprocess(predictions())
    assert [len(image["conf"]) > 0 for image in stock] == [True, False, False]
    for preds in (predictions(), (predictions(), SimpleNamespace())):
        found = ours.postprocess(preds)
        assert len(found) == IMAGES
        for one, other in zip(found, expected, strict=True):
            assert all(torch.equal(one[key], other[key]) for key in other)
