from __future__ import annotations

from typing import Any

import pytest

from qreg_yolo.config import ultralytics_keys
from qreg_yolo.config.detection import RunConfig
from qreg_yolo.io.strict_yaml import ConfigError


def test_the_hosts_own_defaults_are_legal_and_read_right() -> None:
    import ultralytics.cfg

    assert dict(ultralytics_keys.host_defaults()) == ultralytics.cfg.DEFAULT_CFG_DICT
    ultralytics_keys.check_train(
        {key: ultralytics_keys.host_defaults()[key] for key in ultralytics_keys.legal_keys()}, "test"
    )


def test_types_agree_with_the_hosts_tables() -> None:
    """Whatever Ultralytics' check refuses by type we refuse too, for every key whose default tells the type."""
    from ultralytics.cfg import DEFAULT_CFG_DICT, check_cfg

    disagreements = []
    for key in ultralytics_keys.legal_keys():
        if DEFAULT_CFG_DICT[key] is None:
            continue
        for value in (1, 0.5, True, "x", None, [0.1, 0.2]):
            try:
                check_cfg({key: value})
            except TypeError:
                try:
                    ultralytics_keys.check_train({key: value}, "test")
                except ConfigError:
                    continue
                disagreements.append((key, value))
            except ValueError:
                continue
    assert not disagreements


@pytest.mark.parametrize(("key", "value"), [
    ("batch", 0.7), ("imgsz", [640, 480]), ("cache", "ram"), ("amp", "bf16"), ("compile", "default"),
    ("fraction", [0.5, 1.0]), ("scale", [0.5, 2.0]), ("lr0", 1), ("auto_augment", None),
    ("device", "0,1"), ("time", 0.5), ("device", 0), ("device", [0, 1]), ("name", 12), ("freeze", ["23.cv2", 4]),
])  # fmt: skip
def test_values_of_more_than_the_defaults_type(key: str, value: Any) -> None:
    from ultralytics.cfg import check_cfg

    check_cfg({key: value})
    assert RunConfig(train={key: value}).train == {key: value}


@pytest.mark.parametrize(("key", "value", "words"), [
    ("optimizer", "AdamX", ["optimizer='AdamX' is not one of: SGD", "Did you mean 'Adam'"]),
    ("cache", "rma", ["is not one of: true, false, ram, disk", "Did you mean 'ram'"]),
    ("amp", "off", ["is not one of: true, false, fp16"]), ("compile", "fast", ["is not one of"]),
    ("classes", ["person"], ["'person' is not a whole number"]), ("imgsz", [0.5], ["0.5 is not a whole number"]),
    ("scale", ["x"], ["'x' is not a number"]), ("name", True, ["name=True is not a text"]), ("freeze", "x", ["freeze"]),
    ("conf", "high", ["conf='high' is not a number or none"]), ("save", False, ["'save' cannot be set", "--resume"]),
    ("split", "test", ["'split' cannot be set", "val split="]), ("distill_model", "x.pt", ["--teacher"]),
    ("quantize", 8, ["--bits"]), ("half", True, ["--bits"]), ("int8", True, ["--bits"]),
])  # fmt: skip
def test_values_that_training_refuses(key: str, value: Any, words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        ultralytics_keys.check_train({key: value}, "test")
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(("key", "command", "words"), [
    ("model", "val", "first argument"), ("model", "predict", "first argument"), ("embed", "predict", "QuantYOLO"),
    ("source", "predict", "second argument"), ("quantize", "val", "--bits"), ("half", "predict", "--bits"),
    ("task", "val", "detection"), ("mode", "predict", "subcommand"), ("cfg", "val", "--hyp"),
])  # fmt: skip
def test_what_other_commands_refuse(key: str, command: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ultralytics_keys.check_values({key: "x"}, "test", command)


def test_defaults_that_change_nothing_are_taken() -> None:
    ultralytics_keys.check_train({"save": True, "split": "val"}, "test")
