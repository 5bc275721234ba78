"""A number says what was measured: classes by name, images that were counted, settings, nothing where nothing is."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from torch import Tensor

from qreg_yolo.config.detection import resolve
from qreg_yolo.detect import QuantYOLO, evaluate, noise, runs
from qreg_yolo.detect.batch_validator import BOXED, coco_map
from qreg_yolo.detect.data_check import ImageSet
from qreg_yolo.detect.detectors import load_detectors
from qreg_yolo.detect.robustness import DetectorRobustnessRequest
from qreg_yolo.detect.robustness import measure as measure_robustness
from qreg_yolo.errors import WeightsError
from qreg_yolo.io import records
from qreg_yolo.metrics.average_precision import METRICS
from qreg_yolo.quant.lsq import LSQWeightQuantizer
from tests.detect.conftest import Trained
from tests.detect.robustness_helpers import request


def copied(data: Path, folder: Path, *, order: list[int] | None = None, **changes: Any) -> Path:
    """Returns the data YAML of a copy whose classes are in another order, or with other entries."""
    shutil.copytree(data.parent, folder)
    description = yaml.safe_load(data.read_text())
    names = [description["names"][number] for number in sorted(description["names"])]
    order = order or list(range(len(names)))
    description["names"] = [names[old] for old in order]
    description["path"] = str(folder)
    for label in (folder / "labels").rglob("*.txt"):
        rows = [line.split() for line in label.read_text().splitlines()]
        label.write_text("".join(f"{order.index(int(row[0]))} {' '.join(row[1:])}\n" for row in rows))
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump({**description, **changes}))
    return path


def measured(result: Any) -> dict[str, dict[str, Any]]:
    """Returns metric -> the record of it."""
    return {row["metric"]: row for row in records.read(result.save_dir / records.FILE).to_dicts()}


@pytest.fixture
def turned(tiny_data: Path, tmp_path: Path) -> Path:
    """Returns the tiny set with its classes in the opposite order."""
    count = len(yaml.safe_load(tiny_data.read_text())["names"])
    return copied(tiny_data, tmp_path / "turned", order=list(range(count))[::-1])


def test_classes_in_another_order_give_the_same_numbers(
    trained: Trained, tiny_data: Path, turned: Path, tmp_path: Path
) -> None:
    def val(data: Path) -> dict[str, dict[str, Any]]:
        arguments = {"project": str(tmp_path), "plots": False, "max_det": 30000}
        return measured(evaluate.validate(trained.best, str(data), arguments, 1))

    straight, other = val(tiny_data), val(turned)
    assert straight["map50"]["value"] > 0.02
    for metric in METRICS:
        assert other[metric]["value"] == pytest.approx(straight[metric]["value"], abs=1e-9)
    assert "class_map=none" in straight["map50"]["evaluation"]
    assert "class_map=by-name" in other["map50"]["evaluation"]
    metrics = QuantYOLO(str(trained.best)).val(data=str(turned), max_det=30000, plots=False, project=str(tmp_path))
    assert metrics.box.map == pytest.approx(straight["map50_95"]["value"], abs=1e-9)


def test_robustness_and_noise_take_classes_by_name(
    trained: Trained, tiny_data: Path, turned: Path, tmp_path: Path
) -> None:
    def clean(data: Path, out: str) -> dict[str, dict[str, Any]]:
        request = DetectorRobustnessRequest(
            weights=[trained.best], data=str(data), out=tmp_path / out, corruptions=(), split="val", threads=1
        )
        return measured(measure_robustness(request))

    straight, other = clean(tiny_data, "straight"), clean(turned, "other")
    assert straight["map50"]["value"] > 0.02
    assert other["map50"]["value"] == pytest.approx(straight["map50"]["value"], abs=1e-3)  # 300 detections an image
    expected = straight["map50"]["evaluation"].replace("class_map=none", "class_map=by-name")
    assert other["map50"]["evaluation"] == expected

    def numbers(data: Path) -> list[list[float]]:
        """Returns the classes in the labels that ``noise`` hands to the loss."""
        request = noise.DetectorNoiseRequest(weights=trained.best, data=str(data), split="val", limit=4)
        (detector,) = load_detectors([trained.best], None)
        return [sorted(label["cls"].ravel().tolist()) for label in noise._images(request, detector).labels]

    assert numbers(turned) == numbers(tiny_data)


def test_other_classes_are_refused_before_the_work(trained: Trained, tiny_data: Path, tmp_path: Path) -> None:
    count = len(yaml.safe_load(tiny_data.read_text())["names"])
    other = copied(tiny_data, tmp_path / "other", names=[f"thing {i}" for i in range(count)])
    with pytest.raises(WeightsError, match=r"only the data has 'thing 0'.*--class-map"):
        evaluate.validate(trained.best, str(other), {"project": str(tmp_path / "runs")}, 1)
    with pytest.raises(WeightsError, match="--class-map"):
        QuantYOLO(str(trained.best)).val(data=str(other), project=str(tmp_path / "runs"), plots=False)
    request = DetectorRobustnessRequest(weights=[trained.best], data=str(other), out=tmp_path / "rob", corruptions=())
    with pytest.raises(WeightsError, match="--class-map"):
        measure_robustness(request)
    assert not (tmp_path / "rob").exists()


def test_robustness_and_noise_take_a_class_map(trained: Trained, tiny_data: Path, tmp_path: Path) -> None:
    names = yaml.safe_load(tiny_data.read_text())["names"]
    names = [names[number] for number in sorted(names)]
    other = copied(tiny_data, tmp_path / "other", names=[f"my {name}" for name in names])
    given = tmp_path / "map.yaml"
    given.write_text("".join(f"my {name}: {name}\n" for name in names))
    values = []
    for data, classes in ((tiny_data, None), (other, str(given))):
        request = DetectorRobustnessRequest(
            weights=[trained.best], data=str(data), out=tmp_path / f"out{len(values)}", corruptions=(), split="val",
            threads=1, class_map=classes,
        )  # fmt: skip
        values.append(measured(measure_robustness(request))["map50"])
    assert values[1]["value"] == values[0]["value"] > 0.02
    assert "class_map=map " in values[1]["evaluation"]
    asked = noise.DetectorNoiseRequest(weights=trained.best, data=str(other), split="val", class_map=str(given))
    (detector,) = load_detectors([trained.best], None)
    assert list(noise._images(asked, detector).names.values()) == names


def test_pycocotools_has_no_map_without_objects(tmp_path: Path) -> None:
    label = {"cls": np.zeros((0, 1), np.float32), "bboxes": np.zeros((0, 4), np.float32), "shape": (32, 32)}
    images = ImageSet(tmp_path / "d.yaml", "val", (), (label,), {0: "cat"}, 3, ())
    assert math.isnan(coco_map(np.empty(0, BOXED), images, 1))


def test_images_are_counted_where_they_are_measured(trained: Trained, tiny_data: Path, tmp_path: Path) -> None:
    arguments = {"project": str(tmp_path), "plots": False, "fraction": [1.0, 3], "conf": 0.01, "imgsz": 96}
    row = measured(evaluate.validate(trained.best, str(tiny_data), arguments, 1))["map50"]
    assert row["n_images"] == 3
    settings = dict(word.split("=") for word in row["evaluation"].split())
    assert (settings["imgsz"], settings["conf"], settings["fraction"]) == ("96", "0.01", "3")
    labels = sorted((tiny_data.parent / "labels" / "train").iterdir())[:3]
    rows = [line.split()[0] for label in labels for line in label.read_text().splitlines()]
    assert settings["objects"] == str(len(rows))
    assert settings["classes_present"] == str(len(set(rows)))


def test_without_objects_a_metric_is_nan(trained: Trained, tiny_data: Path, tmp_path: Path) -> None:
    empty = copied(tiny_data, tmp_path / "empty")
    for label in (empty.parent / "labels").rglob("*.txt"):
        label.write_text("")
    result = evaluate.validate(trained.best, str(empty), {"project": str(tmp_path), "plots": False}, 1)
    for metric in ("map50", "map50_95", "precision", "recall"):
        assert math.isnan(measured(result)[metric]["value"])
    request = DetectorRobustnessRequest(
        weights=[trained.best], data=str(empty), out=tmp_path / "rob", corruptions=(), split="val", threads=1
    )
    for metric in ("map50", "map50_95", "precision", "recall"):
        assert math.isnan(measured(measure_robustness(request))[metric]["value"])


def test_a_checkpoint_is_read_once(
    trained: Trained, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts how often each file of weights is unpickled, by whatever way."""
    import torch

    reads: Counter[str] = Counter()
    original = torch.load

    def counted(file: Any, *args: Any, **kwargs: Any) -> Any:
        reads[Path(str(file)).name] += 1
        return original(file, *args, **kwargs)

    monkeypatch.setattr(torch, "load", counted)
    arguments = {"project": str(tmp_path), "plots": False}
    evaluate.validate(trained.best, str(tiny_data), arguments, 1)
    assert reads == {"best.pt": 1}
    reads.clear()
    evaluate.predict(trained.best, str(tiny_data.parent / "images" / "train"), {"project": str(tmp_path)}, 1)
    assert reads == {"best.pt": 1}


def test_a_weight_is_quantized_once_per_measurement(
    trained: Trained, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[int] = Counter()
    original = LSQWeightQuantizer.forward

    def counted(quantizer: LSQWeightQuantizer, weight: Tensor) -> Tensor:
        calls[id(quantizer)] += 1
        return original(quantizer, weight)

    monkeypatch.setattr(LSQWeightQuantizer, "forward", counted)
    evaluate.validate(trained.best, str(tiny_data), {"project": str(tmp_path), "plots": False, "batch": 1}, 1)
    assert set(calls.values()) == {1}
    calls.clear()
    measure_robustness(request([trained.best], tiny_data, tmp_path / "robustness", batch=1))
    assert set(calls.values()) == {1}


PROGRAM = """
import sys
from qreg_yolo import QuantYOLO
model = QuantYOLO(sys.argv[2])
results = model.predict(sys.argv[3], project=sys.argv[4], verbose=False)
assert isinstance(results, list) and len(results) == 8, results
stream = model.predict(sys.argv[3], stream=True, verbose=False)
assert len(list(stream)) == 8
assert sys.argv[1] == "predict"
assert not __import__("os").path.exists(sys.argv[4]), "save is off unless asked for"
"""


@pytest.mark.parametrize("first", ["", "import ultralytics\n"], ids=["ours first", "ultralytics first"])
def test_a_program_of_any_name_gets_its_predictions(
    first: str, trained: Trained, tiny_data: Path, tmp_path: Path
) -> None:
    """Ultralytics takes a program called ``...yolo`` with the word predict for its own command line."""
    program = tmp_path / "my-yolo"
    program.write_text(first + PROGRAM)
    words = ["predict", str(trained.best), str(tiny_data.parent / "images" / "train"), str(tmp_path / "drawn")]
    done = subprocess.run([sys.executable, str(program), *words], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_resumed_run_refuses_other_classes(trained: Trained, tiny_data: Path, tmp_path: Path) -> None:
    from qreg_yolo.detect.data_check import check_data
    from qreg_yolo.detect.preflight import check_names
    from qreg_yolo.errors import DataError

    renamed = copied(tiny_data, tmp_path / "renamed", order=list(range(len(check_data(tiny_data, "val").names)))[::-1])
    model = QuantYOLO(str(trained.best)).model
    check_names(model, check_data(tiny_data, "val"), trained.last)
    with pytest.raises(DataError, match=r"class 0 is .*, and was "):
        check_names(model, check_data(renamed, "val"), trained.last)


def test_a_run_records_what_it_used(tiny_data: Path, tmp_path: Path) -> None:
    settings = {
        "imgsz": 32, "epochs": 1, "batch": 2, "nbs": 2, "fraction": 0.5, "project": str(tmp_path), "plots": False,
        "mosaic": 0.0,
    }  # fmt: skip
    result = runs.train(resolve(None, {"bits": 32, "data": str(tiny_data), "threads": 1}, settings))
    table = records.read(result.save_dir / records.FILE).to_dicts()
    assert {(row["split"], row["n_images"]) for row in table} == {("train", 4), ("val", 8)}
    for row in table:
        found = dict(word.split("=") for word in row["evaluation"].split())
        assert found["imgsz"] == "32"
        assert found["fraction"] == ("0.5" if row["split"] == "train" else "1")
    assert len({row["evaluation"] for row in table}) == 2


def test_the_arithmetic_is_that_of_the_measurement(tiny_data: Path, tmp_path: Path) -> None:
    """In bfloat16 a detector is trained, not measured."""
    settings = {
        "imgsz": 32, "epochs": 1, "batch": 4, "nbs": 4, "project": str(tmp_path), "plots": False, "amp": "bf16",
        "device": "cpu", "name": "run",
    }  # fmt: skip
    result = runs.train(resolve(None, {"bits": 4, "data": str(tiny_data), "threads": 1}, settings))
    table = records.read(result.save_dir / records.FILE).to_dicts()
    assert {(row["split"], row["precision"]) for row in table} == {("train", "bf16"), ("val", "fp32")}
    best = result.save_dir / "weights" / "best.pt"
    again = measured(evaluate.validate(best, None, {"project": str(tmp_path), "plots": False}, 1))
    assert {row["precision"] for row in again.values()} == {"fp32"}
