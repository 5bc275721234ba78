"""Section ``distill`` of both tracks: options, recipes, and what belongs to the other track."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qreg_yolo.config import classification, detection
from qreg_yolo.config.distillation import DistillOptions
from qreg_yolo.io.strict_yaml import ConfigError


def recipe(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(f"distill: {{{text}}}")
    return path


def test_nothing_is_distilled_without_a_teacher() -> None:
    assert detection.resolve(None, {}, {}).distill == DistillOptions()
    assert classification.resolve(None, {}, {})[0].distill == DistillOptions()
    assert DistillOptions().path is None


def test_the_options_of_a_detector(tmp_path: Path) -> None:
    text = "teacher: a.pt, losses: both, logits: 0.5, features: 2, projector: true"
    config = detection.resolve(recipe(tmp_path, text), {"teacher": "b.pt"}, {})
    expected = DistillOptions(teacher="b.pt", losses="both", logits=0.5, features=2, projector=True)
    assert config.distill == expected
    assert config.distill.has_logits
    assert config.distill.has_features
    saved = tmp_path / "config.yaml"
    saved.write_text(detection.dump(config))
    assert detection.load(saved) == config
    features = detection.resolve(None, {"teacher": "b.pt", "distill": "features"}, {}).distill
    assert (features.losses, features.has_logits, features.has_features) == ("features", False, True)


def test_the_options_of_a_classifier(tmp_path: Path) -> None:
    config, _ = classification.resolve(recipe(tmp_path, "logits: 0.5"), {"teacher": "b"}, {"temperature": 2.0})
    assert config.distill == DistillOptions(teacher="b", logits=0.5, temperature=2.0)
    saved = tmp_path / "config.yaml"
    saved.write_text(classification.dump(config))
    assert classification.load(saved) == config


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("losses: logit", ["losses='logit'", "Did you mean 'logits'"]),
        ("logits: 0", ["logits=0", "above 0"]),
        ("features: -1", ["features=-1"]),
        ("temperature: 0", ["temperature=0"]),
        ("projector: 1", ["projector=1", "true or false"]),
        ("projector: true", ["no features to project", "losses"]),
        ("teacher: 3", ["teacher=3"]),
        ("teachr: a", ["'teachr'", "Did you mean 'teacher'"]),
    ],
)
@pytest.mark.parametrize("track", [detection, classification])
def test_wrong_values(track: Any, text: str, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        track.load(recipe(tmp_path, text))
    assert all(word in str(error.value) for word in words), error.value


def test_what_is_for_the_other_track(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"temperature=2 is for classifiers"):
        detection.load(recipe(tmp_path, "temperature: 2"))
    for text in ("losses: both", "features: 2"):
        with pytest.raises(ConfigError, match=r"(losses=both|features=2) is for detectors"):
            classification.load(recipe(tmp_path, text))


def test_losses_without_a_teacher(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--distill both needs a teacher\. Add --teacher"):
        detection.resolve(None, {"distill": "both"}, {})
    detection.resolve(recipe(tmp_path, "teacher: a.pt"), {"distill": "both"}, {})


@pytest.mark.parametrize("track", [detection, classification])
def test_the_teacher_may_be_the_start(track: Any, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("distill: {teacher: weights, logits: 2.0}\n")

    def resolved(**options: Any) -> DistillOptions:
        found = track.resolve(recipe, options, {})
        return (found[0] if isinstance(found, tuple) else found).distill

    assert resolved(bits=4, weights="a.pt") == DistillOptions(teacher="a.pt", logits=2.0)
    assert resolved(bits=4, weights="a.pt", teacher="b.pt").teacher == "b.pt"
    assert resolved(bits=4, teacher="none") == DistillOptions()
    assert resolved(bits=32, weights="a.pt") == DistillOptions(), "a float network would learn from itself"
    with pytest.raises(ConfigError, match="teacher: weights is the checkpoint of --weights"):
        resolved(bits=4)
