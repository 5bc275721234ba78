"""Reading measurements and finding the baseline: named when missing, both named when there are two."""

from __future__ import annotations

from pathlib import Path

import pytest

from qreg_yolo.analysis.measurements import (
    Selection,
    missing_conditions,
    pair_with_baselines,
    precision_warnings,
    read_measurements,
    warnings_of,
)
from qreg_yolo.errors import AnalysisError
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.metrics.conditions import read_layout
from tests.analysis.synthetic_records import record, run_records, write


def test_a_square_in_points_and_its_baseline(tmp_path: Path) -> None:
    rows = run_records(0.6) + run_records(0.5, bits=4) + run_records(0.4, bits=4, seed=1) + run_records(0.7, seed=1)
    pairs = pair_with_baselines(read_measurements(write(tmp_path / "r.csv", rows)))
    assert [(p.quantized.run_id, p.fp32.run_id) for p in pairs] == [
        ("yolov5n-lsq-w4-s0", "yolov5n-fp32-w32-s0"),
        ("yolov5n-lsq-w4-s1", "yolov5n-fp32-w32-s1"),
    ]
    assert len(pairs[0].fp32.values) == 20
    assert pairs[0].fp32.values["clean", 0] == pytest.approx(60)
    assert pairs[0].fp32.values["fog", 3] == pytest.approx(45)
    assert precision_warnings(pairs) == []


def test_no_baseline_names_the_run_and_what_was_looked_for(tmp_path: Path) -> None:
    for change in ({"seed": 1}, {"data": "coco"}, {"split": "val"}, {"n_images": 41}, {"model": "yolov5s.yaml"}):
        path = tmp_path / f"{next(iter(change))}.csv"
        found = read_measurements(write(path, run_records(0.6, bits=4) + run_records(0.5, **change)))
        with pytest.raises(AnalysisError, match=r"yolov5n-lsq-w4-s0 has no fp32 baseline.*seed=0.*n_images=40"):
            pair_with_baselines(found)
    other_preset = [*run_records(0.6, bits=4), record("fog", 3, preset="cifar32")]
    with pytest.raises(AnalysisError, match="preset=imagenet224"):
        pair_with_baselines(read_measurements(write(tmp_path / "preset.csv", other_preset)))


def test_two_baselines_are_both_named_and_one_can_be_chosen(tmp_path: Path) -> None:
    rows = run_records(0.6, bits=4) + run_records(0.5, run_id="fp-best") + run_records(0.4, run_id="fp-last")
    path = write(tmp_path / "r.csv", rows)
    found = read_measurements(path)
    with pytest.raises(AnalysisError, match=r"has 2 fp32 baselines: fp-best and fp-last. Choose one with --baseline"):
        pair_with_baselines(found)
    assert pair_with_baselines(found, ["fp-last"])[0].fp32.run_id == "fp-last"
    assert (
        pair_with_baselines(read_measurements(path, Selection(runs=["*-lsq-*", "*best"])))[0].fp32.run_id == "fp-best"
    )
    with pytest.raises(ConfigError, match=r"baseline='fp-bets' is not an fp32 run.*Did you mean 'fp-best'"):
        pair_with_baselines(found, ["fp-bets"])
    with pytest.raises(ConfigError, match=r"no run matches '\*-bset'"):
        read_measurements(path, Selection(runs=["*-bset"]))


def test_different_arithmetic_is_never_silent(tmp_path: Path) -> None:
    pairs = pair_with_baselines(
        read_measurements(write(tmp_path / "r.csv", run_records(bits=8, precision="bf16") + run_records()))
    )
    assert len(precision_warnings(pairs)) == 1
    assert (
        "yolov5n-lsq-w8-s0 was measured in bf16, its baseline yolov5n-fp32-w32-s0 in fp32"
        in precision_warnings(pairs)[0]
    )


def test_what_was_evaluated_differently_is_not_compared_unasked(tmp_path: Path) -> None:
    small, large = "imgsz=128 conf=0.001 class_map=none", "imgsz=256 conf=0.001 class_map=none"
    path = write(tmp_path / "r.csv", run_records(bits=4, evaluation=large) + run_records(evaluation=small))
    found = read_measurements(path)
    words = r"imgsz=256 and imgsz=128\. Measure both alike.*--baseline yolov5n-fp32-w32"
    with pytest.raises(AnalysisError, match=words):
        pair_with_baselines(found)
    pairs = pair_with_baselines(found, ["yolov5n-fp32-w32-s0"])
    (warning,) = warnings_of(pairs)
    assert "imgsz=256 and imgsz=128. The difference is not quantization's alone" in warning
    assert precision_warnings(pairs) == []


def test_the_baseline_that_was_evaluated_alike_is_taken(tmp_path: Path) -> None:
    rows = run_records(bits=4, evaluation="imgsz=256") + [
        row for size in (128, 256) for row in run_records(evaluation=f"imgsz={size}", run_id=f"fp-{size}")
    ]
    (pair,) = pair_with_baselines(read_measurements(write(tmp_path / "r.csv", rows)))
    assert pair.fp32.run_id == "fp-256"


def test_an_older_table_says_nothing_about_the_evaluation(tmp_path: Path) -> None:
    pairs = pair_with_baselines(
        read_measurements(write(tmp_path / "r.csv", run_records(bits=4, evaluation="imgsz=256") + run_records()))
    )
    assert warnings_of(pairs) == []


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (record("fogg", 3), "'fogg'.*Did you mean 'fog'"),
        (record("fog", 6), "severity=6 does not exist"),
        (record("fog", 0), "severity=0 does not exist"),
        (record("fog", 3, unit="MB"), "is in 'MB'"),
    ],
)
def test_what_cannot_be_a_cell_is_refused(tmp_path: Path, row: object, words: str) -> None:
    with pytest.raises(AnalysisError, match=words):
        read_measurements(write(tmp_path / "r.csv", [row]))  # type: ignore[list-item]


def test_a_selection_that_holds_nothing_says_what_there_is(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", run_records())
    with pytest.raises(
        ConfigError, match=r"metric='map50_59' is in no row.*Did you mean 'map50_95'\? There are: map50_95"
    ):
        read_measurements(path, Selection(metric="map50_59"))
    with pytest.raises(ConfigError, match="preset='cifar32'"):
        read_measurements(path, Selection(preset="cifar32"))
    with pytest.raises(FileNotFoundError, match=r"nowhere.csv does not exist"):
        read_measurements(tmp_path / "nowhere.csv")
    (tmp_path / "empty.csv").touch()
    with pytest.raises(AnalysisError, match="holds no rows"):
        read_measurements(tmp_path / "empty.csv")


def test_the_last_of_two_rows_counts_and_missing_conditions_are_listed(tmp_path: Path) -> None:
    rows = [record("fog", 3, 0.1), record("fog", 3, 0.2), record(value=0.3)]
    (one,) = read_measurements(write(tmp_path / "r.csv", rows))
    assert one.values == {("fog", 3): pytest.approx(20), ("clean", 0): pytest.approx(30)}
    lacking = missing_conditions(one, (3,))
    assert len(lacking) == 18
    (undefined,) = read_measurements(write(tmp_path / "nan.csv", [record("fog", 3, float("nan"))]))
    assert ("fog", 3) in missing_conditions(undefined, (3,))
    assert ("snow", 3) in lacking


def test_layouts(tmp_path: Path) -> None:
    path = tmp_path / "layout.yaml"
    path.write_text("- [clean, fog]\n- [snow, frost]\n")
    assert read_layout(path) == (("clean", "fog"), ("snow", "frost"))
    for text, words in (
        ("- [clean, fog]\n- [snow]\n", "2, 1 conditions"),
        ("- [clean, foog]\n", "Did you mean 'fog'"),
        ("- [fog, fog]\n", "twice"),
        ("rows: 3\n", "not a list of rows"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=words):
            read_layout(path)
    with pytest.raises(FileNotFoundError):
        read_layout(tmp_path / "nowhere.yaml")
