"""The protocol's numbers against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qreg_yolo.corrupt.spec import BENCHMARK_NAMES, NAMES
from qreg_yolo.metrics.conditions import CONDITIONS
from qreg_yolo.metrics.robustness import (
    condition_mean,
    corruption_error,
    error_improvement,
    map_delta,
    mean_over,
    relative_performance,
)


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


TABLE_1 = [
    # average of fp32, of the quantized network, Eq. 5 as printed, Eq. 5 of the two printed averages
    (82.80, 79.17, -8.32, -8.32),  # ResNet20 on CIFAR-10: 2, 4, 8 bits
    (82.80, 83.94, 2.98, 2.98),
    (82.80, 84.07, 3.33, 3.33),
    (50.40, 49.43, -0.84, -0.84),  # ResNet18 on CIFAR-100
    (50.40, 51.76, 1.21, 1.21),
    (50.40, 53.05, 2.39, 2.38),  # not digit for digit
    (28.78, 14.66, -7.86, -7.86),  # YOLOv5n on VOC
    (28.78, 24.90, -2.31, -2.30),  # not digit for digit
    (28.78, 30.34, 0.96, 0.96),
]
"""The nine entries of QReg's Table 1."""
HALF = 0.005  # of the last digit that is printed


@pytest.mark.parametrize(("fp", "q", "printed", "ours"), TABLE_1)
def test_all_entries_of_table_1_come_out_of_its_averages(fp: float, q: float, printed: float, ours: float) -> None:
    assert round(float(error_improvement(fp, q)), 2) == ours
    assert abs(ours - printed) < 0.011
    # What the averages may have been before they were rounded leaves room for what is printed.
    least, most = float(error_improvement(fp + HALF, q - HALF)), float(error_improvement(fp - HALF, q + HALF))
    assert least - HALF < printed < most + HALF
    assert not least - HALF < printed + 0.05 < most + HALF, "the check would not notice another number"


@pytest.mark.parametrize("base", [math.e, 2.0])
@pytest.mark.parametrize(("fp", "q", "printed"), [row[:3] for row in TABLE_1])
def test_no_other_base_of_the_logarithm_gives_what_table_1_prints(
    base: float, fp: float, q: float, printed: float
) -> None:
    assert abs(100 * math.log((100 - fp) / (100 - q), base)) > 2 * abs(printed)


def test_equation_5_without_an_error_left() -> None:
    assert float(error_improvement(50, 100)) == math.inf
    assert float(error_improvement(100, 50)) == -math.inf
    assert float(error_improvement(100, 100)) == 0
    assert error_improvement(np.array([50.0, 100.0]), np.array([100.0, 100.0])).tolist() == [math.inf, 0.0]
    assert math.isnan(float(error_improvement(math.nan, 50)))


VALUES = {("clean", 0): 60.0} | {(c, s): 50.0 - 10 * s + i for i, c in enumerate(NAMES) for s in (1, 3)}


def test_means_over_conditions_and_severities() -> None:
    assert float(condition_mean(VALUES, "clean", (1, 3))) == 60
    assert float(condition_mean(VALUES, "shot_noise", (1, 3))) == 31  # (41 + 21) / 2
    assert float(mean_over(VALUES, BENCHMARK_NAMES, (1,))) == 40 + 7  # mean of 0..14
    assert float(mean_over(VALUES, NAMES, (1, 3))) == 30 + 9
    assert float(mean_over(VALUES, CONDITIONS, (3,))) == pytest.approx((19 * 29 + 60) / 20)


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
