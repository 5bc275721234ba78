"""Three sections, options beside key=value, and milestones that follow the epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qreg_yolo.config.classification import dump, load, resolve
from qreg_yolo.io.resources import recipe_path
from qreg_yolo.io.strict_yaml import ConfigError


def milestones(recipe: Path | None = None, **options: Any) -> tuple[int, ...]:
    return resolve(recipe, options, {})[0].train.milestones


def test_the_papers_recipe() -> None:
    config = load(recipe_path("cifar_paper"))
    expected = {
        "epochs": 200, "milestones": (50, 90, 130, 180), "gamma": 0.2, "lr0": 0.1, "momentum": 0.9,
        "weight_decay": 1e-4, "batch": 128, "nesterov": False, "aug": "crop-flip",
    }  # fmt: skip
    assert {name: getattr(config.train, name) for name in expected} == expected
    assert config.run.data == "cifar10"
    assert config.train.learning_rate(49) == 0.1
    assert [config.train.learning_rate(e) for e in (50, 90, 130, 180)] == pytest.approx([0.02, 4e-3, 8e-4, 1.6e-4])


@pytest.mark.parametrize(
    ("epochs", "expected", "dropped"),
    [
        (8, (2, 4, 5, 7), None),
        (400, (100, 180, 260, 360), None),
        (3, (1, 2), "[90, 180]"),
        (1, (), "[50, 90, 130, 180]"),
        (200, (50, 90, 130, 180), ""),
    ],
)
def test_milestones_scale_with_the_epochs(epochs: int, expected: tuple[int, ...], dropped: str | None) -> None:
    config, notices = resolve(recipe_path("cifar_paper"), {"epochs": epochs}, {})
    assert config.train.milestones == expected
    if dropped == "":
        assert notices == []
    else:
        (notice,) = notices
        assert f"[50, 90, 130, 180] of 200 epochs become {list(expected)} of {epochs}" in notice
        assert (f"dropped: {dropped}" in notice) == (dropped is not None)


def test_epochs_as_key_value_scale_too() -> None:
    assert resolve(None, {}, {"epochs": 8})[0].train.milestones == (2, 4, 5, 7)


def test_a_recipes_own_milestones_scale_from_its_own_epochs(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("train: {epochs: 20, milestones: [10, 15]}")
    assert milestones(recipe) == (10, 15)
    assert milestones(recipe, epochs=4) == (2, 3)
    recipe.write_text("train: {epochs: 20}")
    assert milestones(recipe) == (5, 9, 13, 18), "those of the defaults, scaled"
    assert milestones(recipe, milestones="1,2") == (1, 2)


@pytest.mark.parametrize(
    "given",
    [{"epochs": 8, "milestones": "2,9"}, {"milestones": "50,200"}, {"epochs": 3, "milestones": [1, 2, 3]}],
)
def test_only_milestones_given_past_the_end_are_an_error(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"milestones=.*is not below epochs="):
        resolve(None, given, {})


def test_a_recipe_with_late_milestones_is_wrong_by_itself(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("train: {epochs: 20, milestones: [10, 25]}")
    with pytest.raises(ConfigError, match=r"r\.yaml, section 'train': milestones=\[10, 25\]"):
        resolve(recipe, {"epochs": 100}, {})


def test_what_is_dumped_loads_equal(tmp_path: Path) -> None:
    config, _ = resolve(None, {"bits": 3, "epochs": 8, "method": "pact", "amp": "bf16"}, {"lr0": 0.05})
    path = tmp_path / "config.yaml"
    path.write_text(dump(config))
    assert load(path) == config


@pytest.mark.parametrize(
    ("options", "overrides", "words"),
    [
        ({"bits": 9}, {}, ["bits=9", "1 to 8, or 32"]),
        ({"bits": 0}, {}, ["bits=0"]),
        ({"method": "lsqq"}, {}, ["Did you mean 'lsq'"]),
        ({"data": "cifar"}, {}, ["Did you mean 'cifar10'"]),
        ({"aug": "crop"}, {}, ["Did you mean 'crop-flip'"]),
        ({"amp": "fp16"}, {}, ["off, bf16, auto"]),
        ({"epochs": 0}, {}, ["epochs=0"]),
        ({"batch": 0}, {}, ["batch=0"]),
        ({"lr0": -1.0}, {}, ["lr0=-1"]),
        ({"momentum": float("nan")}, {}, ["momentum=nan"]),
        ({"gamma": 1.5}, {}, ["gamma=1.5", "0 to 1"]),
        ({"nesterov": True, "momentum": 0.0}, {}, ["nesterov"]),
        ({"seed": -1}, {}, ["seed=-1"]),
        ({"milestones": "a,b"}, {}, ["milestones='a,b'", "50,90"]),
        ({"milestones": "9,5"}, {}, ["ascending"]),
        ({}, {"epocs": 3}, ["Did you mean 'epochs'"]),
        ({}, {"bits": 3}, ["an option", "--bits"]),
        ({"epochs": 4}, {"epochs": 5}, ["--epochs 4 and epochs=5 disagree"]),
        ({}, {"lr0": "fast"}, ["lr0='fast'"]),
        ({}, {"compile": 1}, ["compile=1", "true or false"]),
    ],
    ids=str,
)
def test_wrong_values(options: dict[str, Any], overrides: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        resolve(None, options, overrides)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("head: {kind: x}", ["'head' is not a section"]),
        ("train: {epocs: 3}", ["no 'epocs'", "Did you mean 'epochs'"]),
        ("train: {seed: 3}", ["belongs in section 'run'"]),
        ("train: [1]", ["not a mapping"]),
        ("[1]", ["not sections"]),
        ("train: {epochs: soon}", ["epochs='soon'"]),
    ],
)
def test_wrong_recipes(text: str, words: list[str], tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(text)
    with pytest.raises(ConfigError) as error:
        resolve(recipe, {}, {})
    assert all(word in str(error.value) for word in (*words, "r.yaml")), error.value
