"""The table of clean accuracies against a reference, its intervals over seeds and over images."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qreg_yolo.analysis import report
from qreg_yolo.analysis.measurements import pair_with_baselines, read_measurements
from qreg_yolo.analysis.report import ACCURACY, Request
from qreg_yolo.analysis.table import FORMATS, Table
from qreg_yolo.errors import AnalysisError
from qreg_yolo.io.records import Record
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.metrics import image_statistics
from qreg_yolo.metrics.average_precision import mean_average_precision
from qreg_yolo.metrics.bootstrap import paired_difference
from qreg_yolo.metrics.image_statistics import ImageStatistics
from tests.analysis.synthetic_records import record, run_records, write
from tests.metrics.synthetic_detections import simulated

ON = "fp32 trained on"


def rows_of(*values: float, bits: int = 32, variant: str | None = None, **given: Any) -> list[Record]:
    """Returns a clean row per seed."""
    return [
        record(value=value, bits=bits, seed=seed, variant=variant, run_id=f"{variant}-{bits}-{seed}", **given)
        for seed, value in enumerate(values)
    ]


def made(path: Path, reference: str | None = None, **request: Any) -> Table:
    return report._accuracies(Request(records=path, **request), reference)


def entries(table: Table) -> dict[str, dict[str, Any]]:
    """Returns label -> column -> entry."""
    return {str(row[2]): dict(zip(table.header, row, strict=True)) for row in table.rows}


def test_means_shares_and_differences_by_hand(tmp_path: Path) -> None:
    rows = rows_of(0.50, 0.42, 0.46) + rows_of(0.40, 0.30, 0.20, bits=4, variant="lsq+") + rows_of(0.48, variant=ON)
    table = made(write(tmp_path / "r.csv", rows))
    assert table.header == (
        "model",
        "data",
        "variant",
        "seeds",
        "map50_95",
        "kept [%]",
        "difference",
        "difference (images)",
    )
    found = entries(table)
    assert list(found) == ["fp32", "lsq+ 4", ON]
    lsq = found["lsq+ 4"]
    assert (lsq["model"], lsq["data"], lsq["seeds"]) == ("yolov5n", "voc", "3")
    assert (lsq["map50_95"].value, lsq["map50_95"].sd) == pytest.approx((30, 10))
    assert lsq["kept [%]"].value == pytest.approx(100 * 30 / 46)
    difference = lsq["difference"]  # -10, -12, -26: mean -16, deviation sqrt(76)
    assert (difference.value, difference.sd, difference.n) == pytest.approx((-16, math.sqrt(76), 3))
    reach = 4.302652730 * math.sqrt(76 / 3)
    assert (difference.lo, difference.hi) == pytest.approx((-16 - reach, -16 + reach))
    assert lsq["difference (images)"].value == pytest.approx(-16)
    assert math.isnan(lsq["difference (images)"].lo), "there are no per-image files"
    assert found["fp32"]["kept [%]"].value == 100
    assert math.isnan(found["fp32"]["difference"].value)
    assert found[ON]["kept [%]"].value == pytest.approx(100 * 48 / 50), "of the seed that it has"
    assert math.isnan(found[ON]["difference"].lo), "one seed has no interval"


def test_another_reference(tmp_path: Path) -> None:
    rows = rows_of(0.5, 0.5) + rows_of(0.6, variant=ON) + rows_of(0.3, 0.4, bits=4, variant="lsq+")
    path = write(tmp_path / "r.csv", rows + rows_of(0.2, 0.2, bits=2, variant="lsq+"))
    table = made(path, ON)
    assert entries(table)["lsq+ 4"]["difference"].value == pytest.approx(-30)
    assert any("Without a reference of the same seed, in the mean alone: None-32-1, " in note for note in table.notes)
    assert entries(made(path, "lsq+ 4"))["lsq+ 2"]["kept [%]"].value == pytest.approx(100 * 20 / 35)
    with pytest.raises(ConfigError, match=r"several of reference 'lsq\+': lsq\+ 4 \(fp32\), lsq\+ 2"):
        made(path, "lsq+")
    with pytest.raises(ConfigError, match=r"reference='lsq' is in no record.*Did you mean 'lsq\+ 4'"):
        made(path, "lsq")


def test_without_a_reference_or_clean_images(tmp_path: Path) -> None:
    alone = write(tmp_path / "a.csv", rows_of(0.3, bits=4, variant="lsq+") + rows_of(0.3, variant=ON))
    with pytest.raises(AnalysisError, match=r"lsq\+ 4 of yolov5n has no fp32 baseline that was measured"):
        made(alone)
    other = write(tmp_path / "b.csv", rows_of(0.5, n_images=20) + rows_of(0.3, bits=4))
    with pytest.raises(AnalysisError, match="lsq 4 of yolov5n has no fp32 baseline that was measured on the same"):
        made(other)
    with pytest.raises(AnalysisError, match="no clean images"):
        made(write(tmp_path / "c.csv", run_records(conditions=("fog",))))


def test_clean_images_count_once_whatever_else_was_measured(tmp_path: Path) -> None:
    rows = run_records(0.6) + run_records(0.6, preset="tiny64", conditions=("fog",)) + run_records(0.3, bits=4)
    table = made(write(tmp_path / "r.csv", rows))
    assert {label: row["kept [%]"].value for label, row in entries(table).items()} == {"fp32": 100, "lsq 4": 50}


def test_training_on_in_full_precision_is_no_baseline(tmp_path: Path) -> None:
    rows = run_records(0.6) + run_records(0.7, variant=ON, run_id="on") + run_records(0.5, bits=4, variant="lsq+")
    measured = read_measurements(write(tmp_path / "r.csv", rows))
    (pair,) = pair_with_baselines(measured)
    assert (pair.quantized.label, pair.fp32.run_id) == ("lsq+ 4", "yolov5n-fp32-w32-s0")
    assert [run.label for run in measured] == ["fp32", ON, "lsq+ 4"]


def statistics_of(bits: int, seed: int, skill: float) -> ImageStatistics:
    targets = np.random.default_rng(0).poisson([1.0, 0.5, 0.1], (40, 3))
    assert (targets.sum(0) >= 10).tolist() == [True, True, False]
    difficulty = np.random.default_rng(1).normal(size=40)
    return simulated(np.random.default_rng([bits, seed]), 40, 3, skill, 2.0, difficulty, targets)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the records of fp32 and 4 bits with three classes, one of them rare, and two seeds."""
    folder, rows = tmp_path_factory.mktemp("measured"), []
    for bits, skill in ((32, 1.5), (4, 0.8)):
        for seed in (0, 1):
            found = statistics_of(bits, seed, skill)
            (row,) = rows_of(mean_average_precision(found)[0].item(), bits=bits, variant="lsq+" if bits == 4 else None)
            row = replace(row, seed=seed, run_id=f"{bits}-{seed}")
            image_statistics.write(image_statistics.path_of(folder / "per_image", row.run_id, "clean", 0), found)
            rows.append(row)
    return write(folder / "records.csv", rows)


def without_rare(one: ImageStatistics) -> ImageStatistics:
    """Returns the statistics of the first two classes."""
    kept = one.category < 2
    fields = {name: getattr(one, name)[kept] for name in ("confidence", "category", "image", "hits")}
    return replace(one, **fields, targets=one.targets[:, :2])


def test_frequent_classes_have_columns_of_their_own(measured: Path) -> None:
    table = made(measured)
    found = entries(table)["lsq+ 4"]
    for prefix, cut in (("", lambda one: one), ("frequent: ", without_rare)):
        pairs = [[cut(statistics_of(bits, seed, skill)) for bits, skill in ((4, 0.8), (32, 1.5))] for seed in (0, 1)]
        points = [[100 * mean_average_precision(side)[0] for side in pair] for pair in pairs]
        means = np.mean(points, axis=0)
        assert found[f"{prefix}map50_95"].value == pytest.approx(means[0])
        assert found[f"{prefix}kept [%]"].value == pytest.approx(100 * means[0] / means[1])
        assert found[f"{prefix}difference"].value == pytest.approx(means[0] - means[1])
    assert found["frequent: map50_95"].value != pytest.approx(found["map50_95"].value, abs=0.1)
    note = "frequent: mean over the classes with at least 10 objects in the measured images, 2 of 3 in voc/test."
    assert note in table.notes


def test_the_interval_over_images_is_that_of_the_paired_bootstrap(measured: Path) -> None:
    table = made(measured, selection=report.Selection(runs=["*-0"]))
    for prefix, cut in (("", lambda one: one), ("frequent: ", without_rare)):
        one, other = (cut(statistics_of(bits, 0, skill)) for bits, skill in ((4, 0.8), (32, 1.5)))
        expected = paired_difference(one, other)
        entry = entries(table)["lsq+ 4"][f"{prefix}difference (images)"]
        assert (entry.lo, entry.hi) == pytest.approx((100 * expected.lo, 100 * expected.hi))
    both = entries(made(measured))["lsq+ 4"]["difference (images)"]
    assert both.lo < both.value < both.hi
    assert "frequent: map50_95" not in made(measured, intervals=False).header


def test_one_missing_file_leaves_its_entries_empty(measured: Path, tmp_path: Path) -> None:
    for path in (measured.parent / "per_image").glob("*/*.npz"):
        if path.parent.name != "4-1":
            image_statistics.write(tmp_path / path.parent.name / path.name, image_statistics.read(path))
    found = entries(made(measured, per_image=tmp_path))["lsq+ 4"]
    assert math.isnan(found["difference (images)"].lo)
    assert math.isnan(found["frequent: map50_95"].value)
    assert not math.isnan(found["difference"].lo)


@pytest.mark.parametrize("format_", FORMATS)
def test_every_format(measured: Path, format_: str, tmp_path: Path) -> None:
    out = tmp_path / "table"
    text = report.table(Request(records=measured), ACCURACY, format_, out)
    assert out.read_text() == f"{text}\n"
    assert "lsq+ 4" in text


def test_options_of_other_tables_are_refused(measured: Path) -> None:
    with pytest.raises(ConfigError, match="--baseline does not apply to --kind accuracy"):
        made(measured, baselines=["32-0"])
    with pytest.raises(ConfigError, match="--reference lsq applies to --kind accuracy, not to table1"):
        report.table(Request(records=measured), reference="lsq")
    with pytest.raises(ConfigError, match=r"kind='acuracy' is not one of.*Did you mean 'accuracy'"):
        report.table(Request(records=measured), "acuracy")
