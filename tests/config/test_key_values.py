"""``key=value``: the type of the key decides how its text is read."""

from __future__ import annotations

from typing import Any

import pytest

from qreg_yolo.config.key_values import Kind, check_folder_name, parse_overrides, read_value
from qreg_yolo.config.ultralytics_arguments import ARGUMENTS, KINDS
from qreg_yolo.io.strict_yaml import ConfigError

ODD_TEXTS = (
    "exp #1", "010", "no", "on", "1e-3", "null", "none", "~", "true", "[a]", "{a: b}", "'x'", '"x"', "a=b", "a: b",
    "*a", "&a", "!x", "%TAG", "@x", "`x`", "- x", "-x", "#", "a,b", "0x10", "1_000", "2026-01-31", "12:30",
    "\u00e9 \u6f22\u5b57 \U0001f642", "$HOME", "a\\nb", " x ", "?", "|", ">", "(a)", "100%", "~/x",
)  # fmt: skip
"""What YAML, Python or a shell would take for something else."""


@pytest.mark.parametrize("text", ODD_TEXTS)
@pytest.mark.parametrize("key", [name for name, kind in KINDS.items() if kind == Kind.TEXT])
def test_a_text_stays_as_it_is(key: str, text: str) -> None:
    assert parse_overrides([f"{key}={text}"], KINDS) == {key: text}


@pytest.mark.parametrize(("item", "value"), [
    ("epochs=50", 50), ("epochs=1e2", 100), ("epochs=100.0", 100), ("patience=0", 0), ("save_period=-1", -1),
    ("lr0=1e-3", 0.001), ("lr0=.5", 0.5), ("lr0=5.", 5.0), ("lr0=1", 1), ("lr0=1E2", 100.0), ("time=0.5", 0.5),
    ("time=none", None), ("conf=None", None), ("val=False", False), ("val=TRUE", True), ("nms=null", None),
    ("batch=0.7", 0.7), ("batch=-1", -1), ("freeze=10", 10), ("freeze=[0,1]", [0, 1]), ("freeze=[0, 1]", [0, 1]),
    ("freeze=0,1", [0, 1]), ("freeze=['23.cv2', 4]", ["23.cv2", 4]), ("freeze=[23.cv2]", ["23.cv2"]),
    ("freeze=none", None), ("classes=(0,2)", [0, 2]), ("classes=[3]", [3]), ("classes=3", 3), ("classes=[]", []),
    ("imgsz=640,480", [640, 480]), ("imgsz=[640,480]", [640, 480]), ("scale=[0.5,2]", [0.5, 2]), ("scale=0.5", 0.5),
    ("fraction=[1.0,4]", [1.0, 4]), ("cache=ram", "ram"), ("cache=True", True), ("amp=bf16", "bf16"),
    ("amp=false", False), ("compile=default", "default"), ("device=0", "0"), ("device=0,1", "0,1"),
    ("device=[0,1]", "[0,1]"), ("device=cpu", "cpu"), ("device=-1", "-1"), ("unknown=010", "010"),
])  # fmt: skip
def test_the_type_of_the_key_decides(item: str, value: Any) -> None:
    found = parse_overrides([item], KINDS)[item.partition("=")[0]]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(("item", "words"), [
    ("epochs", ["'epochs' is not key=value"]), ("=1", ["'=1' is not key=value"]),
    ("--epochs=1", ["is not key=value"]), ("epochs=", ["epochs= has no value", "leave epochs out"]),
    ("name=", ["name= has no value"]), ("name=  ", ["name= has no value"]), ("epochs=010", ["'010'", "zero out: 10"]),
    ("epochs=1.5", ["'1.5' is not a whole number"]), ("epochs=many", ["'many' is not a whole number"]),
    ("epochs=1_000", ["whole number"]), ("epochs=0x10", ["whole number"]), ("epochs=5 # few", ["'5 # few'"]),
    ("lr0=00.1", ["'00.1' is not a number", "zero out"]), ("lr0=fast", ["'fast' is not a number"]),
    ("lr0=nan", ["'nan' is not a number"]), ("lr0=.inf", ["not a number"]), ("lr0=1,5", ["'1,5' is not a number"]),
    ("val=no", ["'no' is not true or false", "Write true or false"]), ("val=on", ["Write true or false"]),
    ("val=off", ["Write true or false"]), ("val=yes", ["Write true or false"]), ("val=1", ["Write true or false"]),
    ("val=0", ["Write true or false"]), ("nms=no", ["Write true or false"]), ("val=none", ["true or false"]),
    ("epochs=none", ["'none' is not a whole number"]), ("freeze=[[0]]", ["list such as"]),
    ("freeze=[0", ["list such as"]), ("classes=person", ["'person'", "whole number or a list"]),
])  # fmt: skip
def test_faults(item: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        parse_overrides([item], KINDS)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_key_given_twice() -> None:
    assert parse_overrides(["epochs=5", "epochs=5.0"], KINDS) == {"epochs": 5}
    with pytest.raises(ConfigError, match="epochs=1 and epochs=2 disagree"):
        parse_overrides(["epochs=1", "epochs=2"], KINDS)


@pytest.mark.ultralytics
def test_every_key_takes_its_default() -> None:
    from qreg_yolo.config.ultralytics_keys import host_defaults

    for name, default in host_defaults().items():
        text = "none" if default is None else str(default)
        found = read_value(name, text, KINDS[name])
        assert found == default or ARGUMENTS[name].kind == Kind.TEXT, name


def test_classifiers_have_the_same_rule() -> None:
    from qreg_yolo.config.classification import KINDS as OF_CLASSIFIERS

    items = ["name=exp #1", "milestones=50,90", "lr0=1e-3", "compile=true", "amp=off", "batch=64", "data_dir=no"]
    assert parse_overrides(items, OF_CLASSIFIERS) == {
        "name": "exp #1", "milestones": [50, 90], "lr0": 0.001, "compile": True, "amp": "off", "batch": 64,
        "data_dir": "no",
    }  # fmt: skip
    for item in ("nesterov=no", "batch=010", "name="):
        with pytest.raises(ConfigError):
            parse_overrides([item], OF_CLASSIFIERS)


@pytest.mark.parametrize("text", [*ODD_TEXTS, "a/b", "a.b", "x..y", ".hidden", "n" * 240])
def test_folders_of_any_printable_name(text: str) -> None:
    check_folder_name("name", text)
    check_folder_name("project", f"/tmp/{text}/..")


@pytest.mark.parametrize(
    "name", ["..", ".", "a/../b", "../x", "/tmp/x", "a\nb", "a\0b", "a\u2028b", "\udce9", "n" * 241]
)
def test_names_that_are_no_folder_of_the_project(name: str) -> None:
    with pytest.raises(ConfigError, match="name="):
        check_folder_name("name", name)
