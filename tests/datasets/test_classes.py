"""Class names, matched by name, by number or with a map."""

from __future__ import annotations

from pathlib import Path

import pytest

from qreg_yolo.datasets.classes import class_map, class_names, match_classes, placeholder_names
from qreg_yolo.errors import WeightsError
from qreg_yolo.io.strict_yaml import ConfigError


def test_the_map_from_coco_to_voc() -> None:
    coco = ["person", "airplane", "dining table", "motorcycle", "potted plant", "couch", "tv", "sheep"]
    voc = ["aeroplane", "diningtable", "motorbike", "person", "pottedplant", "sheep", "sofa", "tvmonitor"]
    found = class_map("coco2voc", voc, coco)
    assert found.names == tuple(voc)
    assert found.rows == (1, 2, 3, 0, 4, 7, 5, 6)


def test_maps_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "map.yaml"
    path.write_text("dog: hound\n")
    assert class_map(str(path), ["dog", "cat"], ["cat", "hound"]).rows == (1, 0)
    for given, names, words in (
        (str(path), ["cat"], "the data has no class 'dog'"),
        (str(path), ["dog", "bird"], r"'bird' of the data.*data class: model class"),
        ("coco2vco", ["dog"], "Did you mean 'coco2voc'"),
        (str(tmp_path / "none.yaml"), ["dog"], "none.yaml"),
    ):
        with pytest.raises(ConfigError, match=words):
            class_map(given, names, ["cat", "hound"])
    path.write_text("[1]")
    with pytest.raises(ConfigError, match="not a mapping"):
        class_map(str(path), ["dog"], ["cat"])


def test_classes_go_by_name() -> None:
    assert match_classes(["cat", "dog"], ["cat", "dog"], "m", "d") is None
    assert match_classes(["a", "a"], ["a", "a"], "m", "d") is None
    found = match_classes(["dog", "cat", "bird"], ["cat", "bird", "dog"], "m", "d")
    assert found is not None
    assert (found.rows, found.names) == ((2, 0, 1), ("dog", "cat", "bird"))
    for names, model_names, words in (
        (["cat"], ["cat", "dog"], r"2 classes, d.yaml 1: only the model has 'dog'.*--class-map"),
        (["cat", "dog"], ["cat"], "only the data has 'dog'"),
        (["cat", "dig"], ["dog", "cat"], "only the data has 'dig'; only the model has 'dog'"),
        (["a", "a", "b"], ["a", "b", "a"], "given twice"),
        (list("abcdefgh"), ["a"], r"'b', 'c', 'd', 'e', 'f', \.\.\."),
    ):
        with pytest.raises(WeightsError, match=words):
            match_classes(names, model_names, "m.pt", "d.yaml")


def test_classes_without_names_go_by_number() -> None:
    assert match_classes(placeholder_names(2), ["cat", "dog"], "m", "d") is None
    found = match_classes(placeholder_names(1), ["cat", "dog"], "m", "d")
    assert found is not None
    assert (found.rows, found.names, found.label) == ((0,), ("cat",), "by-number")
    with pytest.raises(WeightsError, match="only the model has 'cat'"):
        match_classes(placeholder_names(2), ["cat"], "m", "d")


def test_names_of_a_list_and_of_a_mapping() -> None:
    assert class_names(["a", 1]) == ["a", "1"]
    assert class_names({10: "k", 2: "c", "0": "a"}) == ["a", "c", "k"]


def test_classes_that_look_like_numbers_or_switches_are_texts(tmp_path: Path) -> None:
    path = tmp_path / "map.yaml"
    path.write_text("1: one\nno: on\ntrue: ~\n010: 10\n")
    assert class_map(str(path), ["1", "no", "true", "010"], ["on", "one", "10", "~"]).rows == (1, 0, 3, 2)
