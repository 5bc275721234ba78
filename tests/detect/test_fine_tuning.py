"""Defaults that come with a float checkpoint of the same model and classes."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from qreg_yolo.config.detection import resolve
from qreg_yolo.detect import runs
from qreg_yolo.detect.checkpoint import load_weights
from qreg_yolo.detect.fine_tuning import fine_tuning
from qreg_yolo.detect.quantization_config import QuantizationConfig
from qreg_yolo.detect.safetensors_checkpoint import save_safetensors
from qreg_yolo.errors import MissingFileError
from tests import TINY
from tests.detect.conftest import SETTINGS, Trained


def test_the_settings_of_the_baseline_are_the_defaults(baseline: Trained, tiny_data: Path) -> None:
    found = fine_tuning(baseline.best, {}, {})
    assert found.sections is not None
    run, train = found.sections["run"], found.sections["train"]
    assert Path(run["model"]).name == Path(TINY).name
    assert run["activation"] == "silu"
    assert Path(run["data"]).name == tiny_data.name
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


def test_a_finished_baseline_of_the_same_settings_is_taken(tiny_data: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "epochs": 1, "project": str(tmp_path), "name": "fp32"}

    def config(**more: Any) -> Any:
        return resolve(None, {"bits": 32, "data": str(tiny_data), "model": TINY, **more}, settings)

    first = runs.baseline(config(threads=1))
    written = first.read_bytes()
    assert runs.baseline(config(threads=2)) == first
    assert first.read_bytes() == written
    other = runs.baseline(config(threads=1, seed=5))
    assert other != first
    assert first.read_bytes() == written


def test_a_checkpoint_without_the_newer_keys_has_the_papers_starts(trained: Trained) -> None:
    model, _ = load_weights(trained.best)
    stored = deepcopy(model.yaml)
    for name in ("init", "offset", "clip_init", "stages", "range_lr"):
        del stored["qreg"]["spec"][name]
    for name in ("training", "recipe"):
        del stored["qreg"][name]
    for plan in stored["qreg"]["layers"].values():
        for side in ("weight", "input"):
            for name in ("init", "offset"):
                del plan[side][name]
    config = QuantizationConfig.read(stored)
    assert (config.spec.init, config.spec.offset, config.spec.clip_init) == ("paper", "float", 10.0)
    assert (config.training, config.recipe, config.spec.stages) == ("qat", None, ())
    assert {plan.input.offset for plan in config.layers.values()} == {"float"}
