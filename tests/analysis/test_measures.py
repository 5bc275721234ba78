"""The protocol's numbers against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qreg_yolo.analysis.cells import CELLS
from qreg_yolo.analysis.measures import (
    cell_mean,
    corruption_error,
    error_improvement,
    map_delta,
    mean_over,
    relative_performance,
)
from qreg_yolo.corrupt.spec import BENCHMARK_NAMES, NAMES


@pytest.mark.parametrize(
    ("fp", "q", "expected"),
    [
        (50.0, 50.0, 0.0),
        (0.0, 90.0, 100.0),  # a tenth of the error: one decade
        (90.0, 0.0, -100.0),
    ],
)
def test_equation_5(fp: float, q: float, expected: float) -> None:
    assert float(error_improvement(fp, q)) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("fp", "q", "printed"),
    [
        (82.80, 79.17, -8.32),  # ResNet20 on CIFAR-10, 2 bits
        (82.80, 83.94, 2.98),
        (82.80, 84.07, 3.33),
        (28.78, 24.90, -2.31),  # YOLOv5n on VOC, 4 bits; exactly -2.304
    ],
)
def test_what_table_1_prints_comes_out_of_its_averages(fp: float, q: float, printed: float) -> None:
    assert float(error_improvement(fp, q)) == pytest.approx(printed, abs=0.01)


@pytest.mark.parametrize("base", [math.e, 2.0])
def test_no_other_base_of_the_logarithm_gives_what_table_1_prints(base: float) -> None:
    assert abs(100 * math.log((100 - 82.80) / (100 - 79.17), base) - -8.32) > 3


def test_equation_5_without_an_error_left() -> None:
    assert float(error_improvement(50, 100)) == math.inf
    assert float(error_improvement(100, 50)) == -math.inf
    assert float(error_improvement(100, 100)) == 0
    assert error_improvement(np.array([50.0, 100.0]), np.array([100.0, 100.0])).tolist() == [math.inf, 0.0]
    assert math.isnan(float(error_improvement(math.nan, 50)))


VALUES = {("clean", 0): 60.0} | {(c, s): 50.0 - 10 * s + i for i, c in enumerate(NAMES) for s in (1, 3)}


def test_means_over_cells_and_severities() -> None:
    assert float(cell_mean(VALUES, "clean", (1, 3))) == 60
    assert float(cell_mean(VALUES, "shot_noise", (1, 3))) == 31  # (41 + 21) / 2
    assert float(mean_over(VALUES, BENCHMARK_NAMES, (1,))) == 40 + 7  # mean of 0..14
    assert float(mean_over(VALUES, NAMES, (1, 3))) == 30 + 9
    assert float(mean_over(VALUES, CELLS, (3,))) == pytest.approx((19 * 29 + 60) / 20)


def test_a_missing_cell_is_nan_and_never_a_smaller_mean() -> None:
    lacking = {key: value for key, value in VALUES.items() if key != ("fog", 3)}
    assert math.isnan(float(mean_over(lacking, NAMES, (1, 3))))
    assert float(mean_over(lacking, NAMES, (1,))) == 49
    assert math.isnan(float(map_delta(VALUES, lacking, "fog", (3,))))


def test_relative_performance_is_a_ratio_of_means() -> None:
    assert float(relative_performance(30, 60)) == 50
    assert math.isnan(float(relative_performance(30, 0)))


def test_corruption_error_sums_over_severities_before_it_divides() -> None:
    fp = {("fog", 1): 80.0, ("fog", 2): 60.0, ("snow", 1): 50.0, ("snow", 2): 50.0}
    q = {("fog", 1): 70.0, ("fog", 2): 60.0, ("snow", 1): 60.0, ("snow", 2): 50.0}
    # fog: (30 + 40) / (20 + 40) = 7/6; snow: (40 + 50) / (50 + 50) = 9/10
    assert float(corruption_error(q, fp, ("fog", "snow"), (1, 2))) == pytest.approx(100 * (7 / 6 + 0.9) / 2)
    assert float(corruption_error(fp, fp, ("fog", "snow"), (1, 2))) == 100


def test_resamples_go_through_element_by_element() -> None:
    many = {key: np.array([value, value + 1]) for key, value in VALUES.items()}
    assert mean_over(many, NAMES, (1, 3)).tolist() == [39, 40]
    assert map_delta(many, many, "fog", (1,)).tolist() == [0, 0]
