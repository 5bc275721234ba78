"""Checkpoints that are not of our making, of one class, or without NMS: the numbers of stock ``val``, or a remedy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from ultralytics import YOLO
from ultralytics.utils import YAML

from qreg_yolo.datasets.corrupted.request import Request
from qreg_yolo.datasets.corrupted.write import write_sets
from qreg_yolo.datasets.sources import read_source
from qreg_yolo.detect.robustness import measure
from qreg_yolo.errors import WeightsError
from qreg_yolo.io.strict_yaml import ConfigError
from tests import TINY
from tests.detect.conftest import SETTINGS
from tests.detect.factories import END_TO_END
from tests.detect.robustness_helpers import BATCH, request
from tests.results_helpers import numbers

Train = Callable[..., Path]


@pytest.fixture(scope="module")
def stock(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Returns a function that trains with Ultralytics alone and gives the checkpoint; each kind is trained once."""
    made: dict[str, Path] = {}

    def faster_statistics(trainer: Any) -> None:
        for module in trainer.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.3  # 32 steps have to do

    def train(network: str, **more: Any) -> Path:
        key = f"{network} {more}"
        if key not in made:
            model = YOLO(network)
            model.add_callback("on_train_start", faster_statistics)
            folder = tmp_path_factory.mktemp("stock")
            model.train(
                data=str(tiny_data), project=str(folder), name="run", device="cpu", workers=0,
                **{**SETTINGS, "epochs": 16, "val": False, **more},
            )  # fmt: skip
            made[key] = folder / "run" / "weights" / "best.pt"
        return made[key]

    return train


def _compare(weights: Path, data: Path, folder: Path, **more: Any) -> list[float]:
    """Asserts that a measurement equals stock ``val`` on the same images on disk; returns the mAP50s."""
    sets = Request(out=folder / "sets", corruptions=("brightness",), severities=(1,))
    written = write_sets(read_source(data, "val"), sets).yamls[0]
    measure(request([weights], data, folder / "out", corruptions=("brightness",)))
    found, seen = numbers(folder / "out"), []
    for name, severity, yaml in ((None, None, data), ("brightness", 1, written)):
        box = (
            YOLO(str(weights))
            .val(data=str(yaml), batch=BATCH, imgsz=64, plots=False, device="cpu", workers=0, project=str(folder),
                 name="val", **more)
            .box
        )  # fmt: skip
        (run_id,) = {key[0] for key in found}
        theirs = {"map50_95": box.map, "map50": box.map50, "precision": box.mp, "recall": box.mr}
        for metric, value in theirs.items():
            assert found[run_id, name, severity, metric] == pytest.approx(float(value), abs=1e-6), metric
        seen.append(float(box.map50))
    return seen


def test_a_stock_checkpoint(stock: Train, several_shapes: Path, tmp_path: Path) -> None:
    assert min(_compare(stock(TINY), several_shapes, tmp_path)) > 0.005, "it detects nothing: no proof"


def test_a_checkpoint_of_a_single_class(stock: Train, several_shapes: Path, tmp_path: Path) -> None:
    weights = stock(TINY, single_cls=True)
    assert min(_compare(weights, several_shapes, tmp_path, single_cls=True)) > 0.005, "it detects nothing: no proof"


@pytest.fixture(scope="module")
def end_to_end(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Returns model YAMLs with the heads of YOLO26 and YOLOv10."""
    folder = tmp_path_factory.mktemp("models")
    ((levels, repeats, _, arguments),) = YAML.load(TINY)["head"]
    models = {"yolo26": END_TO_END, "yolov10": YAML.load(TINY) | {"head": [[levels, repeats, "v10Detect", arguments]]}}
    for name, description in models.items():
        YAML.save(folder / f"tiny-{name}.yaml", description)
    return {name: str(folder / f"tiny-{name}.yaml") for name in models}


@pytest.mark.parametrize("head", ["yolo26", "yolov10"])
def test_an_end_to_end_checkpoint(
    head: str, end_to_end: dict[str, str], stock: Train, several_shapes: Path, tmp_path: Path
) -> None:
    assert max(_compare(stock(end_to_end[head]), several_shapes, tmp_path)) > 0.0, "it detects nothing: no proof"


def test_an_end_to_end_checkpoint_whose_training_measured_without_nms(
    end_to_end: dict[str, str], stock: Train, several_shapes: Path, tmp_path: Path
) -> None:
    _compare(stock(end_to_end["yolo26"], nms=False), several_shapes, tmp_path, nms=False)


def test_a_stock_checkpoint_of_other_classes_is_refused(several_shapes: Path, tmp_path: Path) -> None:
    YOLO("yolov5n.yaml").save(tmp_path / "coco.pt")
    with pytest.raises(WeightsError, match=r"has 80 classes, .* 5: only the data has .*--class-map"):
        measure(request([tmp_path / "coco.pt"], several_shapes, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_stock_checkpoint_of_another_task_is_refused(several_shapes: Path, tmp_path: Path) -> None:
    YOLO("yolov8n-seg.yaml").save(tmp_path / "segment.pt")
    with pytest.raises(WeightsError, match=r"SegmentationModel.* no detector checkpoint does"):
        measure(request([tmp_path / "segment.pt"], several_shapes, tmp_path / "out"))


def test_one_class_and_several_are_measured_apart(stock: Train, several_shapes: Path, tmp_path: Path) -> None:
    both = [stock(TINY), stock(TINY, single_cls=True)]
    with pytest.raises(ConfigError, match=r"Only one of .* has single_cls. Measure them apart"):
        measure(request(both, several_shapes, tmp_path / "out"))
