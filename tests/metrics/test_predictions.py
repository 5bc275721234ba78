"""A classifier's predictions per image: exact, paired as a detector's, and chosen by the records themselves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qreg_yolo.analysis import report
from qreg_yolo.analysis.comparison import compare, estimate
from qreg_yolo.analysis.measurements import Selection, pair_with_baselines, read_measurements
from qreg_yolo.errors import AnalysisError
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.metrics import image_statistics
from qreg_yolo.metrics.bootstrap import (
    Interval,
    check_same_images,
    interval,
    metric_values,
    metrics_of,
    paired_difference,
    resample_weights,
)
from qreg_yolo.metrics.conditions import CLEAN, CONDITIONS
from qreg_yolo.metrics.predictions import ImagePredictions, accuracy
from qreg_yolo.metrics.robustness import map_delta
from tests.analysis.synthetic_records import record, run_records, write
from tests.metrics.synthetic_detections import simulated

TOP1 = "accuracy_top1"


def predicted(rng: np.random.Generator, chance: Any = 0.7, n: int = 50) -> ImagePredictions:
    names = np.array([f"{i}.png" for i in range(n)])
    return ImagePredictions(rng.random(n) < chance, np.arange(n, dtype=np.int32) % 10, names)


def test_the_share_of_correct_predictions_by_hand() -> None:
    one = ImagePredictions(np.array([True, False, True]), np.array([0, 1, 2], np.int32), np.array(["a", "b", "c"]))
    weights = np.array([[1, 0, 3], [1, 3, 0], [1, 0, 0]])
    assert accuracy(one).tolist() == [2 / 3]
    assert accuracy(one, weights).tolist() == [2 / 3, 0.0, 1.0]
    assert accuracy(one, np.full((3, 1), 1 << 24)).tolist() == [2 / 3], "beyond float32's whole numbers"
    assert metric_values(one, TOP1, weights).tolist() == accuracy(one, weights).tolist()
    assert metrics_of(one) == (TOP1,)
    assert metrics_of(simulated(np.random.default_rng(0))) == ("map50", "map50_95")
    with pytest.raises(AnalysisError, match="metric='map50'"):
        accuracy(one, metric="map50")


def test_unit_weights_reproduce_the_value_exactly_and_a_model_against_itself_is_zero() -> None:
    one = predicted(np.random.default_rng(0), n=997)
    assert accuracy(one, np.ones((997, 5), int)).tolist() == [one.correct.sum() / 997] * 5
    assert paired_difference(one, one, TOP1) == Interval(0.0, 0.0)


def test_the_interval_is_that_of_resampled_images() -> None:
    rng = np.random.default_rng(1)
    one, other = predicted(rng), predicted(rng, 0.5)
    weights = resample_weights(50)
    difference = one.correct.astype(float) - other.correct
    by_hand = interval(np.array([weights[:, r] @ difference / 50 for r in range(1000)]))
    found = paired_difference(one, other, TOP1)
    assert (found.lo, found.hi) == pytest.approx((by_hand.lo, by_hand.hi), abs=1e-12)
    assert found.lo < found.hi


def test_intervals_cover_about_as_often_as_they_say() -> None:
    hits = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        hard = rng.random(200)  # what is hard for one is hard for the other
        one, other = (predicted(rng, np.clip(skill - 0.4 * hard, 0, 1), 200) for skill in (0.9, 0.8))
        found = paired_difference(one, other, TOP1, resamples=200, seed=seed)
        hits += found.lo <= 0.1 <= found.hi
    assert 0.90 <= hits / 200 <= 0.99  # binomial: 95 % +- 3 standard deviations of 1.5 %


def test_written_and_read_back_as_what_it_was(tmp_path: Path) -> None:
    before = predicted(np.random.default_rng(0), n=10_000)
    path = tmp_path / "run" / "fog-3.npz"
    image_statistics.write(path, before)
    after = image_statistics.read(path)
    assert isinstance(after, ImagePredictions)
    for name in ("correct", "targets", "names"):
        assert np.array_equal(getattr(before, name), getattr(after, name))
        assert getattr(before, name).dtype == getattr(after, name).dtype
    assert path.stat().st_size < 100_000
    np.savez(path, correct=np.zeros(3), targets=np.zeros(3, np.int32), names=np.array(["a", "b", "c"]))
    with pytest.raises(AnalysisError, match="'correct' is float64"):
        image_statistics.read(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"names": np.array(["a"])}, r"\[50, 50, 1\] entries"),
        ({"targets": np.full(50, -1, np.int32)}, "targets holds -1"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(AnalysisError, match=words):
        replace(predicted(np.random.default_rng(0)), **change)


def test_other_images_or_labels_cannot_be_compared() -> None:
    one = predicted(np.random.default_rng(0))
    with pytest.raises(AnalysisError, match="different images"):
        check_same_images(one, replace(one, names=one.names[::-1]), "a", "b")
    targets = one.targets.copy()
    targets[7] += 1
    with pytest.raises(AnalysisError, match=r"different labels \(image '7.png'\)"):
        check_same_images(one, replace(one, targets=targets), "a", "b")


def study(folder: Path) -> Path:
    """Writes the records and per-image files of a float and a 4-bit classifier."""
    rows = []
    for bits, skill in ((32, 0.9), (4, 0.8)):
        for name in CONDITIONS:
            severity = 0 if name == CLEAN else 3
            found = predicted(np.random.default_rng([bits, CONDITIONS.index(name)]), skill - 0.1 * severity)
            row = record(
                name, severity, float(accuracy(found)[0]), bits, track="classify", model="resnet20", metric=TOP1,
                data="cifar10", n_images=50,
            )  # fmt: skip
            rows += [row, replace(row, metric="loss", unit="loss", value=1.0)]
            image_statistics.write(image_statistics.path_of(folder / "per_image", row.run_id, name, severity), found)
    return write(folder / "records.csv", rows)


def test_classifiers_are_compared_in_accuracy_with_intervals(tmp_path: Path) -> None:
    path = study(tmp_path)
    (pair,) = pair_with_baselines(read_measurements(path))
    assert pair.quantized.metric == TOP1
    (comparison,) = compare([pair], tmp_path / "per_image")
    found = estimate([comparison], lambda q, fp: map_delta(q, fp, "fog", (3,)))
    files = [image_statistics.path_of(tmp_path / "per_image", r.run_id, "fog", 3) for r in (pair.quantized, pair.fp32)]
    by_hand = paired_difference(*map(image_statistics.read, files), TOP1)
    assert (found.lo, found.hi) == pytest.approx((100 * by_hand.lo, 100 * by_hand.hi))
    assert found.lo < found.value < found.hi
    for kind in ("table1", "robustness", "severity", "cells"):
        text = report.table(report.Request(records=path), kind)
        assert TOP1 in text
        assert "resnet20" in text
        assert "95 % interval" in text
    report.heatmap(report.Request(records=path), tmp_path / "a.png")
    assert "resnet20 lsq 4: 0: " in report.severity_curves(report.Request(records=path), tmp_path / "b.png")


def test_records_of_both_tracks_are_each_compared_in_their_own_metric(tmp_path: Path) -> None:
    path = study(tmp_path)
    write(path, [*run_records(), *run_records(0.4, bits=4)])
    metrics = {one.track: one.metric for one in read_measurements(path)}
    assert metrics == {"classify": TOP1, "detect": "map50_95"}
    assert "accuracy_top1, map50_95" in report.table(report.Request(records=path, intervals=False))


def test_records_without_the_default_metric_say_what_they_have(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", [record(metric="map50")])
    with pytest.raises(ConfigError, match=r"map50_95 is in no row.*--metric: map50\."):
        read_measurements(path)
    assert len(read_measurements(path, Selection(metric="map50"))) == 1
