"""The robustness metrics, one function each. Points are 0..100; a metric that lacks a condition is nan, not 0."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from qreg_yolo.metrics.conditions import CLEAN, Condition

Values = Mapping[Condition, "float | NDArray[np.float64]"]
"""Condition -> points; an array holds one value per bootstrap resample."""
Number = NDArray[np.float64]
"""A value, or one per resample."""


def condition_mean(values: Values, condition: str, severities: Sequence[int]) -> Number:
    """Returns the mean of one condition over severities, in points; nan where one of them is missing.

    Args:
        values: The measured values.
        condition: A corruption, or ``clean``, which has no severities.
        severities: Severities to average over.
    """
    keys = [(condition, 0)] if condition == CLEAN else [(condition, severity) for severity in severities]
    return cast(Number, sum(np.asarray(values.get(key, math.nan)) for key in keys) / len(keys))


def mean_over(values: Values, conditions: Sequence[str], severities: Sequence[int]) -> Number:
    """Returns the mean over conditions of their means over severities, in points.

    Over corruptions this is mPC, mean performance under corruption (Michaelis et al. 2019, arXiv 1907.07484).
    """
    return cast(Number, sum(condition_mean(values, name, severities) for name in conditions) / len(conditions))


def map_delta(quantized: Values, fp32: Values, condition: str, severities: Sequence[int]) -> Number:
    """Returns quantized - fp32 of one condition in points, as in QReg (arXiv 2206.12372), Figs. 2 to 6."""
    return condition_mean(quantized, condition, severities) - condition_mean(fp32, condition, severities)


def error_improvement(fp: float | Number, q: float | Number) -> Number:
    """Returns the reduction of the error, in percent of a decade; positive if quantization helps.

    QReg (arXiv 2206.12372), Eq. 5: ``100 log10((100 - fp) / (100 - q))``. The base is not stated there; 10 is the one
    that gives the entries of its Table 1.

    Args:
        fp: Average of the full-precision model, points.
        q: Average of the quantized model, points.

    >>> round(float(error_improvement(50.0, 75.0)), 2)
    30.1
    >>> float(error_improvement(50.0, 100.0)), float(error_improvement(100.0, 100.0))
    (inf, 0.0)
    """
    fp_error, q_error = np.broadcast_arrays(100.0 - np.asarray(fp), 100.0 - np.asarray(q))
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = 100 * (np.log10(fp_error) - np.log10(q_error))
    return np.where((fp_error == 0) & (q_error == 0), 0.0, gain)


def relative_performance(mpc: float | Number, clean: float | Number) -> Number:
    """Returns rPC in percent: performance under corruption over clean performance, a ratio of means; nan at clean 0."""
    clean = np.asarray(clean, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(clean > 0, 100 * np.asarray(mpc) / clean, math.nan)


def corruption_error(quantized: Values, fp32: Values, conditions: Sequence[str], severities: Sequence[int]) -> Number:
    """Returns mCE in percent, below 100 where the quantized model errs less than its baseline.

    Hendrycks and Dietterich 2019 (arXiv 1903.12261): per corruption the errors, 100 - points, summed over severities,
    over those of the baseline; then the mean over corruptions. Their baseline was AlexNet.

    Deviates: the baseline is the fp32 network.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = [
            np.divide(100 - condition_mean(quantized, name, severities), 100 - condition_mean(fp32, name, severities))
            for name in conditions
        ]
    return cast(Number, 100 * sum(ratios) / len(ratios))
