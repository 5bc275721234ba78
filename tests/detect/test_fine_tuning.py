"""Defaults that come with a float checkpoint of the same model and classes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from qreg_yolo.detect.checkpoint import load_weights
from qreg_yolo.detect.fine_tuning import fine_tuning
from qreg_yolo.detect.safetensors_checkpoint import save_safetensors
from qreg_yolo.errors import MissingFileError
from tests import TINY
from tests.detect.conftest import Trained


def test_the_settings_of_the_baseline_are_the_defaults(baseline: Trained, tiny_data: Path) -> None:
    found = fine_tuning(baseline.best, {}, {})
    assert found.fits
    assert Path(found.options["model"]).name == Path(TINY).name
    assert (found.options["head"], found.options["activation"]) == ("anchor_free", "silu")
    assert Path(found.options["data"]) == tiny_data
    assert found.arguments == {"imgsz": 64, "batch": 4}
    assert "imgsz=64, batch=4" in str(found)


def test_what_is_given_is_not_taken_from_the_baseline(baseline: Trained, tiny_data: Path) -> None:
    found = fine_tuning(baseline.best, {"head": "anchor_free"}, {"data": str(tiny_data), "imgsz": 32})
    assert found.fits
    assert "head" not in found.options
    assert "data" not in found.options
    assert found.arguments == {"batch": 4}


def test_another_model_head_or_activation_is_no_fine_tuning(baseline: Trained) -> None:
    for options in ({"model": "yolov5n.yaml"}, {"head": "anchor"}, {"activation": "relu"}):
        found = fine_tuning(baseline.best, options, {})
        assert not found.fits
        assert (found.options, found.arguments) == ({}, {})


def test_other_classes_are_no_fine_tuning(baseline: Trained, tiny_data: Path, tmp_path: Path) -> None:
    description = yaml.safe_load(tiny_data.read_text())
    description["path"] = str(tiny_data.parent)
    renamed = tmp_path / "renamed.yaml"
    names = {number: f"other {name}" for number, name in description["names"].items()}
    renamed.write_text(yaml.safe_dump({**description, "names": names}))
    assert not fine_tuning(baseline.best, {"data": str(renamed)}, {}).fits
    renamed.write_text(yaml.safe_dump(description))
    assert fine_tuning(baseline.best, {"data": str(renamed)}, {}).fits


def test_a_quantized_start_is_no_fine_tuning(trained: Trained) -> None:
    assert not fine_tuning(trained.best, {}, {}).fits


def test_data_that_are_gone_are_named(baseline: Trained, tiny_data: Path, tmp_path: Path) -> None:
    model, stored = load_weights(baseline.best)
    moved = tmp_path / "moved.safetensors"
    save_safetensors(model, moved, {**stored["train_args"], "data": str(tmp_path / "gone.yaml")})
    with pytest.raises(MissingFileError, match=r"which is gone\. Give --data"):
        fine_tuning(moved, {}, {})
    assert fine_tuning(moved, {"data": str(tiny_data)}, {}).fits
