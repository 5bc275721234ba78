"""Defaults that come with a float checkpoint of the same model and classes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from qreg_yolo.config.detection import resolve
from qreg_yolo.detect.checkpoint import load_weights
from qreg_yolo.detect.fine_tuning import fine_tuning
from qreg_yolo.detect.safetensors_checkpoint import save_safetensors
from qreg_yolo.errors import MissingFileError
from tests import TINY
from tests.detect.conftest import Trained


def test_the_settings_of_the_baseline_are_the_defaults(baseline: Trained, tiny_data: Path) -> None:
    found = fine_tuning(baseline.best, {}, {})
    assert found.sections is not None
    run, train = found.sections["run"], found.sections["train"]
    assert Path(run["model"]).name == Path(TINY).name
    assert run["activation"] == "silu"
    assert Path(run["data"]) == tiny_data
    assert (train["imgsz"], train["batch"], train["mosaic"], train["fliplr"]) == (64, 4, 0.0, 0.0)
    assert found.sections["head"]["kind"] == "anchor_free"
    assert str(found) == f"model={run['model']}, data={run['data']}, imgsz=64, batch=4, anchor_free head"


def test_the_order_is_checkpoint_recipe_command_line(baseline: Trained, tmp_path: Path) -> None:
    inherited = fine_tuning(baseline.best, {}, {}).sections
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("train: {mosaic: 0.25, scale: 0.3}\n")
    config = resolve(recipe, {"bits": 4}, {"scale": 0.1}, inherited)
    assert (config.train["imgsz"], config.train["mosaic"], config.train["scale"]) == (64, 0.25, 0.1)
    assert config.run.data == inherited["run"]["data"]
    assert "lr0" not in config.train


def test_another_model_head_or_activation_is_no_fine_tuning(baseline: Trained) -> None:
    for options in ({"model": "yolov5n.yaml"}, {"head": "anchor"}, {"activation": "relu"}):
        assert fine_tuning(baseline.best, options, {}).sections is None
    assert fine_tuning(baseline.best, {"head": "anchor_free", "activation": "silu"}, {"imgsz": 32}).sections


def test_other_classes_are_no_fine_tuning(baseline: Trained, tiny_data: Path, tmp_path: Path) -> None:
    description = yaml.safe_load(tiny_data.read_text())
    description["path"] = str(tiny_data.parent)
    renamed = tmp_path / "renamed.yaml"
    names = {number: f"other {name}" for number, name in description["names"].items()}
    renamed.write_text(yaml.safe_dump({**description, "names": names}))
    assert fine_tuning(baseline.best, {"data": str(renamed)}, {}).sections is None
    renamed.write_text(yaml.safe_dump(description))
    assert fine_tuning(baseline.best, {"data": str(renamed)}, {}).sections is not None


def test_a_quantized_start_is_no_fine_tuning(trained: Trained) -> None:
    assert fine_tuning(trained.best, {}, {}).sections is None


def test_data_that_are_gone_are_named(baseline: Trained, tiny_data: Path, tmp_path: Path) -> None:
    model, stored = load_weights(baseline.best)
    moved = tmp_path / "moved.safetensors"
    save_safetensors(model, moved, {**stored["train_args"], "data": str(tmp_path / "gone.yaml")})
    with pytest.raises(MissingFileError, match=r"which is gone\. Give --data"):
        fine_tuning(moved, {}, {})
    assert fine_tuning(moved, {"data": str(tiny_data)}, {}).sections
