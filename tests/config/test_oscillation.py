"""Section ``oscillation`` in both tracks: off by default, checked, written only where it says something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qreg_yolo.config import classification, detection
from qreg_yolo.config.classification import ClassifyConfig
from qreg_yolo.config.detection import RunConfig
from qreg_yolo.config.oscillation import OscillationOptions
from qreg_yolo.io.strict_yaml import ConfigError

HELD = OscillationOptions(freeze_codes=0.02, dampen=0.1, transition_rate=0.005, transition_eta=2.0)


def resolved(track: str, options: dict[str, Any], recipe: Path | None = None) -> RunConfig | ClassifyConfig:
    if track == "detect":
        return detection.resolve(recipe, options, {})
    return classification.resolve(recipe, options, {})[0]


@pytest.mark.parametrize("track", ["detect", "classify"])
def test_recipe_then_command_line_and_back_from_what_is_dumped(track: str, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("oscillation: {freeze_codes: 0.02, dampen: 0.3, transition_eta: 2}")
    config = resolved(track, {"dampen": 0.1, "transition_rate": 0.005, "bits": 3}, recipe)
    assert config.oscillation == HELD
    module: Any = detection if track == "detect" else classification
    recipe.write_text(module.dump(config))
    assert module.load(recipe) == config


@pytest.mark.parametrize("track", ["detect", "classify"])
def test_by_default_it_is_off_and_a_configuration_is_as_it_was_before(track: str) -> None:
    config = resolved(track, {})
    assert not config.oscillation.is_on
    assert "oscillation" not in config.to_dict()


@pytest.mark.parametrize("track", ["detect", "classify"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"freeze_codes": 0.2}, ["freeze_codes=0.2", "0 to 0.1"]),
        ({"freeze_codes": -0.01}, ["freeze_codes=-0.01"]),
        ({"freeze_codes": True}, ["freeze_codes=True", "not a number"]),
        ({"dampen": -1.0}, ["dampen=-1"]),
        ({"dampen": float("nan")}, ["dampen=nan"]),
        ({"transition_rate": 1.5}, ["transition_rate=1.5", "0 to 1"]),
        ({"transition_eta": 0.0}, ["transition_eta=0", "above 0"]),
        ({"dampn": 1.0}, ["'dampn'", "Did you mean 'dampen'"]),
        ({"dampen": 0.1, "method": "dorefa"}, ["dampen=0.1", "method=dorefa", "lsq or lsq+"]),
        ({"freeze_codes": 0.02, "method": "pact"}, ["freeze_codes=0.02", "method=pact"]),
    ],
    ids=str,
)
def test_wrong_values(track: str, options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        resolved(track, options)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("track", ["detect", "classify"])
def test_a_recipe_of_held_weights_serves_the_baseline_too(track: str) -> None:
    assert resolved(track, {"bits": 32, "dampen": 0.1, "method": "dorefa"}).oscillation.is_on


def test_a_classifier_takes_them_as_key_value_a_detector_as_options() -> None:
    assert classification.resolve(None, {}, {"dampen": 0.1})[0].oscillation.dampen == 0.1
    with pytest.raises(ConfigError, match="--freeze-codes"):
        detection.resolve(None, {}, {"freeze_codes": 0.01})


def test_a_misplaced_key_names_its_section(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("train: {dampen: 0.1}")
    for load in (detection.load, classification.load):
        with pytest.raises(ConfigError, match="section 'oscillation'"):
            load(recipe)
