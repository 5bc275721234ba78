"""Settings that a training takes from a float checkpoint: the rule, on configurations."""

from __future__ import annotations

from pathlib import Path

import pytest

from qreg_yolo.config import classification, detection
from qreg_yolo.config.detection import resolve
from qreg_yolo.config.fine_tuning import TrainedSettings, classifier_sections, inherits
from qreg_yolo.io.resources import recipe_path


@pytest.mark.parametrize(
    ("hyp", "is_float", "expected"),
    [
        (None, False, True), (None, True, False), ("qat_finetune", True, True), ("my/qat_finetune.yaml", False, True),
        ("voc_finetune", False, False), ("cifar_finetune", False, False),
    ],
)  # fmt: skip
def test_the_recipe_decides(hyp: str | None, is_float: bool, expected: bool) -> None:
    assert inherits("detect", hyp, is_float=is_float) is expected


def test_a_classifier_has_a_recipe_of_its_own() -> None:
    assert inherits("classify", "cifar_finetune", is_float=True)
    assert not inherits("classify", "qat_finetune", is_float=True)


def test_a_planned_training_has_the_settings_that_its_checkpoint_will_have() -> None:
    overrides = {"imgsz": 150, "batch": 8, "epochs": 3}
    planned = TrainedSettings.of(resolve(recipe_path("voc_finetune"), {"head": "anchor"}, overrides))
    found = planned.sections()
    assert found["run"] == {"model": "yolov5n.yaml", "activation": "silu", "data": "voc"}
    assert (found["head"]["kind"], found["head"]["obj"]) == ("anchor", 0.51728)
    train = found["train"]
    assert (train["imgsz"], train["batch"], train["mosaic"]) == (160, 8, 0.85834)
    assert (train["cutmix"], train["single_cls"]) == (0.0, False), "Ultralytics' defaults"
    assert {"box", "cls", "dfl", "epochs", "lr0", "optimizer"}.isdisjoint(train)


def test_a_checkpoint_keeps_the_gains_of_an_anchor_head_alone() -> None:
    found = TrainedSettings.of(resolve(recipe_path("voc_finetune"), {}, {"imgsz": [96, 64]})).sections()
    assert (found["head"]["kind"], found["head"]["obj"]) == ("anchor_free", 1.0)
    assert (found["train"]["box"], found["train"]["imgsz"]) == (7.5, 96)


def test_another_model_head_or_activation_does_not_fit() -> None:
    settings = TrainedSettings.of(resolve(None, {"model": "here/yolov5n.yaml"}, {}))
    assert settings.fit({}, {})
    assert settings.fit({"head": "anchor_free"}, {"model": "there/yolov5n.yaml"})
    for options in ({"head": "anchor"}, {"activation": "relu"}, {"model": "yolov5s.yaml"}):
        assert not settings.fit(options, {})


def test_the_settings_of_a_classifier() -> None:
    overrides = {"data_dir": "DIR", "train_images": 50, "batch": 16}
    config = classification.resolve(recipe_path("cifar_paper"), {"data": "cifar10"}, overrides)[0].to_dict()
    assert classifier_sections(config, {}, {"data": "cifar10"}) == {
        "run": {"model": "resnet20", "data": "cifar10", "data_dir": "DIR", "verify": True, "train_images": 50},
        "train": {"batch": 16, "aug": "crop-flip", "weight_decay": 1e-4, "channels_last": True},
    }
    assert classifier_sections(config, {"data": "cifar100"}, {}) is None
    assert classifier_sections(config, {}, {"model": "resnet18"}) is None


def test_the_average_of_a_recipe_can_be_unset(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("run: {average: 0.1}\n")
    assert resolve(recipe, {}, {}).run.average == 0.1
    assert resolve(recipe, {"average": "none"}, {}).run.average is None
    assert resolve(recipe, {"average": 0.3}, {}).run.average == 0.3
    with pytest.raises(ValueError, match="average='no' is not a number"):
        resolve(recipe, {"average": "no"}, {})


@pytest.mark.parametrize("name", ["voc_scratch", "voc_finetune", "cifar_paper"])
def test_the_recipes_of_the_paper_keep_the_papers_starts(name: str) -> None:
    found = (classification if name.startswith("cifar") else detection).resolve(recipe_path(name), {}, {})
    quant = (found[0] if isinstance(found, tuple) else found).quant
    assert (quant.init, quant.offset) == ("paper", "float")
    plan = quant.layer_plan(rescale=None, pretrained=True)
    assert plan.weight is not None
    assert plan.weight.init == "paper"
