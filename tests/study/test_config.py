"""The file of a study: strict keys, choices and lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from qreg_yolo.io.resources import study_path
from qreg_yolo.io.strict_yaml import ConfigError, dumps
from qreg_yolo.study.config import Grid, Protocol, load


def write(folder: Path, text: str) -> Path:
    path = folder / "study.yaml"
    path.write_text(text)
    return path


def test_a_study_of_one_line_has_defaults(tmp_path: Path) -> None:
    study = load(write(tmp_path, "grid: {track: classify}"))
    assert study.grid.model == ("resnet20",)
    assert study.grid.methods == ({"method": "lsq"},)
    assert study.grid.bits == (8, 4, 2)
    assert study.grid.seeds == (0,)
    assert len(study.protocol.conditions) == 1 + 19 * 5
    assert study.analyses.table1


def test_what_is_written_is_read_back_equal(tmp_path: Path) -> None:
    text = """
grid: {model: [yolov5n.yaml, yolov5s.yaml], methods: [lsq, {method: dorefa, weight_only: true}], bits: 4, seeds: [0, 1]}
protocol: {corruptions: [fog, snow], severities: [1, 3]}
analyses: {noise: true}
"""
    study = load(write(tmp_path, text))
    assert study.protocol.corruptions == "fog,snow"
    assert study.protocol.conditions == [("clean", 0), ("snow", 1), ("snow", 3), ("fog", 1), ("fog", 3)]
    assert load(write(tmp_path, dumps(study.to_dict()))) == study


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gird: {}", ["'gird' is not a section", "Did you mean 'grid'?"]),
        ("grid: {method: lsq}", ["no 'method'", "Did you mean 'methods'?"]),
        ("seeds: [0]", ["It belongs in section 'grid'"]),
        ("grid: {track: detection}", ["track='detection'", "Did you mean 'detect'?"]),
        ("grid: {bits: [3, 9]}", ["bits=9 is not a width"]),
        ("grid: {seeds: []}", ["seeds is empty"]),
        ("grid: {seeds: [0, 0]}", ["holds a value twice"]),
        ("grid: {seeds: [-1]}", ["at least 0"]),
        ("grid: {methods: [lsk]}", ["method='lsk'", "Did you mean 'lsq'?"]),
        ("grid: {methods: [{method: lsq, weightonly: true}]}", ["'weightonly'", "Did you mean 'weight_only'?"]),
        ("grid: {methods: [{weight_only: true}]}", ["is not a name or a mapping"]),
        ("grid: {methods: [{method: pact, signed: signed}]}", ["section 'grid'", "does not go with method='pact'"]),
        ("grid: {variants: [lsq+]}", ["'lsq+' is not a mapping"]),
        ("grid: {variants: [{bits: 4}]}", ["is not a mapping such as {name: lsq+"]),
        ("grid: {variants: [{name: a, optoins: {}}]}", ["no option 'optoins'", "Did you mean 'options'?"]),
        ("grid: {variants: [{name: a=b}]}", ["name='a=b' cannot be a name"]),
        ("grid: {variants: [{name: a, bits: 9}]}", ["variant 'a': bits=9 is not a width"]),
        ("grid: {variants: [{name: a, bits: []}]}", ["variant 'a': bits is empty"]),
        ("grid: {variants: [{name: a, seeds: [1]}]}", ["variant 'a': seed 1 has no baseline"]),
        ("grid: {variants: [{name: a, options: {seed: 1}}]}", ["variant 'a': options: the study sets 'seed' itself"]),
        ("grid: {variant_options: {name: x}}", ["variant_options: the study sets 'name' itself"]),
        ("analyses: {reference: lsq+}", ["reference='lsq+'", "Add accuracy: true"]),
        ("grid: {overrides: {seed: 1}}", ["the study sets 'seed' itself"]),
        ("grid: {overrides: [1]}", ["overrides must be a mapping"]),
        ("protocol: {corruptions: fogg}", ["'fogg' is not one of the 19", "Did you mean 'fog'?"]),
        ("protocol: {severities: 6}", ["severities='6'"]),
        ("protocol: {limit: 0}", ["limit=0"]),
        ("analyses: {table1: 1}", ["table1=1 is not true or false"]),
        ("analyses: [table1]", ["not a mapping"]),
    ],
)
def test_what_is_wrong_is_named(text: str, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, text))
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_the_baseline_is_no_width_of_the_grid() -> None:
    assert Grid(model="resnet20", bits=[32, 8]).bits == (8,)
    assert Protocol(corruptions=15, severities=3).conditions[0] == ("clean", 0)
    assert len(Protocol(corruptions=15, severities=3).conditions) == 16


@pytest.mark.parametrize("name", ["demo", "qreg_cifar10", "qreg_cifar100", "qreg_voc", "small_data", "low_bits"])
def test_the_shipped_studies_are_valid(name: str) -> None:
    assert load(study_path(name)).grid.seeds


def test_variants_are_read_and_written_back_equal(tmp_path: Path) -> None:
    text = """
grid:
  seeds: [0, 1]
  variant_options: {workers: 0}
  variants:
    - {name: fp32 trained on, bits: 32, options: {hyp: qat_finetune}}
    - {name: lsq+, bits: [4, 2], seeds: 1, options: {teacher: baseline, average: null}}
protocol: {corruptions: []}
analyses: {table1: false, accuracy: true, reference: fp32 trained on}
"""
    study = load(write(tmp_path, text))
    first, second = study.grid.variants
    assert (first.bits, first.seeds, first.label) == ((32,), None, "fp32-trained-on")
    assert (second.bits, second.seeds, second.label) == ((4, 2), (1,), "lsqplus")
    assert second.options == {"teacher": "baseline", "average": None}
    assert study.grid.methods == (), "variants take the place of the default method"
    assert study.protocol.conditions == [("clean", 0)]
    assert load(write(tmp_path, dumps(study.to_dict()))) == study
    assert Protocol(corruptions="none").conditions == [("clean", 0)]
