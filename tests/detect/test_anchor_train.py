"""Runs with the anchor head: losses, agreement, resuming, predictions, robustness, eight images overfitted."""

from __future__ import annotations

import csv
import json
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from qreg_yolo.datasets.classes import ClassMap
from qreg_yolo.detect import QuantDetectionValidator, QuantYOLO, save_safetensors
from qreg_yolo.detect.evaluate import inspect_weights
from qreg_yolo.detect.outputs import identity
from qreg_yolo.detect.quantization_config import QuantizationConfig
from qreg_yolo.detect.robustness import measure
from qreg_yolo.io import records
from tests.detect.conftest import Trained, train_tiny
from tests.detect.robustness_helpers import BATCH, request
from tests.detect.test_resume import _assert_equal, _epochs, _resume, _train
from tests.results_helpers import numbers

ANCHOR = {"bits": 4, "method": "lsq", "head": "anchor"}


@pytest.fixture(scope="module")
def anchored(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Returns a W4A4 run with the anchor head that has fitted something."""
    run = train_tiny(tiny_data, tmp_path_factory.mktemp("anchored"), ANCHOR, epochs=16, every=4, lr0=0.004)
    assert run.best_map[0] > 0.02, "the run has learned nothing, so agreement of its numbers would prove nothing"
    return run


def rows_of(run: Trained) -> list[dict[str, str]]:
    with (run.save_dir / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_results_have_the_objectness_loss(anchored: Trained) -> None:
    rows = rows_of(anchored)
    losses = [column for column in rows[0] if column.endswith("_loss")]
    assert losses == [f"{split}/{kind}_loss" for split in ("train", "val") for kind in ("box", "obj", "cls")]
    for column in losses:
        values = [float(row[column]) for row in rows if column.startswith("train") or row[column] != "nan"]
        assert len(values) == (len(rows) if column.startswith("train") else len(anchored.epochs))
        assert all(np.isfinite(values))
        assert min(values) > 0
    for column in ("train/box_loss", "train/cls_loss"):  # objectness has no such rule: its target is the rising IoU
        assert float(rows[-1][column]) < float(rows[0][column]), column


def test_training_final_eval_val_and_the_safetensors_checkpoint_agree(anchored: Trained, tmp_path: Path) -> None:
    best_epoch = max(anchored.epochs, key=lambda pair: pair[1])
    assert anchored.best_map == pytest.approx(best_epoch, abs=1e-4)
    facade = QuantYOLO(str(anchored.best))
    saved = tmp_path / "best.safetensors"
    save_safetensors(facade.model, saved, facade.ckpt["train_args"])
    for weights in (anchored.best, saved):
        box = QuantYOLO(str(weights)).val(project=str(tmp_path), name="val", plots=False).box
        assert (float(box.map50), float(box.map)) == pytest.approx(anchored.best_map, abs=1e-4)
    for phase in ("train", "val", "final_eval"):
        assert anchored.counter.per_pass(phase) == (15, 15), phase
    assert len(anchored.ema_flags) == 30
    assert all(anchored.ema_flags)


def test_val_writes_text_and_json(anchored: Trained, tmp_path: Path) -> None:
    facade = QuantYOLO(str(anchored.best))
    facade.val(project=str(tmp_path), name="val", plots=False, save_txt=True, save_json=True, conf=0.001)
    lines = [line for path in (tmp_path / "val" / "labels").glob("*.txt") for line in path.read_text().splitlines()]
    found = json.loads((tmp_path / "val" / "predictions.json").read_text())
    assert len(lines) == len(found) > 0


def test_predictions_are_written_as_text(anchored: Trained, tiny_data: Path, tmp_path: Path) -> None:
    facade = QuantYOLO(str(anchored.best))
    results = facade.predict(
        str(tiny_data.parent / "images" / "train"), project=str(tmp_path), name="p", save_txt=True, conf=0.001,
        verbose=False,
    )  # fmt: skip
    assert len(results) == 8
    boxes = torch.cat([one.boxes.xyxyn for one in results])
    assert len(boxes)
    assert float(boxes.min()) >= 0
    assert float(boxes.max()) <= 1
    written = sum(len(path.read_text().splitlines()) for path in (tmp_path / "p" / "labels").glob("*.txt"))
    assert written == len(boxes)


def test_a_killed_and_resumed_run_equals_a_straight_one(tiny_data: Path, tmp_path: Path) -> None:
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    more: dict[str, Any] = {"qreg": {"bits": 4, "head": {"kind": "anchor", "autoanchor": True}}, "epochs": 3}
    _train(straight, tiny_data, **more)
    _train(resumed, tiny_data, kill_at=3, **more)  # in the second epoch
    assert "not bit for bit" not in _resume(resumed, tiny_data)
    _assert_equal(*(torch.load(folder / "state.pt", weights_only=True) for folder in (straight, resumed)))
    assert _epochs(straight) == _epochs(resumed)


def test_inspection_counts_the_head(anchored: Trained) -> None:
    inspection = inspect_weights(anchored.best)
    layers = {layer.name: layer for layer in inspection.layers}
    assert len(layers) == 15
    assert all(layer.macs for layer in layers.values())
    assert inspection.unused_branch == []


def test_the_numbers_under_corruptions_are_those_of_val(
    anchored: Trained, several_shapes: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    measure(request([anchored.best], several_shapes, out, corruptions=("brightness",)))
    found = numbers(out)
    (run_id,) = {key[0] for key in found}
    assert run_id.startswith("tiny-anchor-lsq-w4a4-s0-best-")
    box = (
        QuantYOLO(str(anchored.best))
        .val(data=str(several_shapes), batch=BATCH, plots=False, project=str(tmp_path), name="val", imgsz=64)
        .box
    )
    assert float(box.map) > 0
    for metric, value in {"map50_95": box.map, "map50": box.map50, "precision": box.mp, "recall": box.mr}.items():
        assert found[run_id, None, None, metric] == pytest.approx(float(value), abs=5e-4), metric


def test_the_two_heads_have_twins_of_their_own(
    anchored: Trained, trained: Trained, several_shapes: Path, tmp_path: Path
) -> None:
    """An anchor detector is not compared with the full-precision baseline of another network."""
    anchor, plain = (identity(run.best, QuantYOLO(str(run.best)).model.yaml, 0) for run in (anchored, trained))
    assert (anchor["model"], plain["model"]) == ("tiny-anchor", "tiny.yaml")
    assert anchor["method"] == plain["method"] == "lsq"
    out = tmp_path / "out"
    measure(request([anchored.best, trained.best], several_shapes, out, corruptions=("brightness",)))
    assert {row["model"] for row in records.read(out / "records.csv").to_dicts()} == {"tiny-anchor", "tiny.yaml"}


def test_mapped_classes_give_the_same_numbers(anchored: Trained, tiny_data: Path, tmp_path: Path) -> None:
    """The same images with their classes counted from behind, but for the first, which is not among the data's."""
    folder = tmp_path / "set"
    shutil.copytree(tiny_data.parent, folder, ignore=shutil.ignore_patterns("*.cache"))
    description = yaml.safe_load(tiny_data.read_text())
    names = [description["names"][number] for number in sorted(description["names"])]
    kept = tuple(reversed(range(1, len(names))))
    for path in (folder / "labels").rglob("*.txt"):
        rows = [line.split() for line in path.read_text().splitlines()]
        path.write_text("".join(f"{kept.index(int(row[0]))} {' '.join(row[1:])}\n" for row in rows if int(row[0])))
    description |= {"path": str(folder), "names": [f"my {names[row]}" for row in kept]}
    (folder / "mapped.yaml").write_text(yaml.safe_dump(description))
    # Room for every box: at the usual 300 an image, those of the class left out take places from the others.
    common: dict[str, Any] = {"project": str(tmp_path), "name": "val", "plots": False, "max_det": 30000}
    plain = QuantYOLO(str(anchored.best)).val(data=str(tiny_data), **common).box
    expected = {int(row): float(ap) for row, ap in zip(plain.ap_class_index, plain.ap, strict=True) if row}
    for rows in (kept, tuple(reversed(kept))):
        classes = ClassMap(rows, tuple(description["names"]))
        found = QuantYOLO(str(anchored.best)).val(
            partial(QuantDetectionValidator, classes=classes), data=str(folder / "mapped.yaml"), **common
        )
        assert found.names == dict(enumerate(description["names"]))
        by_class = {kept[int(row)]: float(ap) for row, ap in zip(found.box.ap_class_index, found.box.ap, strict=True)}
        assert by_class.keys() == expected.keys()
        same = all(by_class[row] == pytest.approx(expected[row], abs=1e-9) for row in expected)
        assert same is (rows == kept)


@pytest.mark.slow
def test_eight_images_are_overfitted_in_two_minutes(tiny_data: Path, tmp_path: Path) -> None:
    model = QuantYOLO("yolov5n.yaml")

    def faster_statistics(trainer: Any) -> None:
        for module in trainer.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.3  # few steps have to do

    model.add_callback("on_train_start", faster_statistics)
    start = time.process_time()
    metrics = model.train(
        data=str(tiny_data), qreg={"bits": 32, "head": "anchor"}, epochs=100, imgsz=128, batch=4, nbs=4,
        optimizer="AdamW", lr0=0.004, warmup_epochs=3, amp=False, plots=False, mosaic=0.0, hsv_h=0.0, hsv_s=0.0,
        hsv_v=0.0, translate=0.0, scale=0.0, fliplr=0.0, cos_lr=True, project=str(tmp_path), name="run", workers=0,
    )  # fmt: skip
    assert time.process_time() - start < 120, "seconds of CPU time on one thread"
    assert QuantizationConfig.of(model.model).head.kind == "anchor"
    assert float(metrics.box.map50) > 0.95
