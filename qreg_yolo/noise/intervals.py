"""A mean and its confidence interval (Student's t), without NumPy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev

_NORMAL = 1.959963984540054
"""The normal distribution's 97.5 % quantile."""


@dataclass(frozen=True)
class Interval:
    """A number and its 95 % interval; nan: it has none."""

    value: float
    lo: float = math.nan
    hi: float = math.nan

    def to_dict(self) -> dict[str, float | None]:
        """Returns plain values for JSON, which has no nan: None."""
        return {key: finite(value) for key, value in asdict(self).items()}


def finite(value: float) -> float | None:
    """Returns a number for JSON, which has neither nan nor infinity: None."""
    return value if math.isfinite(value) else None


def mean_interval(values: Sequence[float]) -> Interval:
    """Returns the mean of independent values with its 95 % interval; of one value without.

    Values that are not all finite have neither: nan.

    >>> mean_interval([1.0, 2.0, 3.0, 4.0])  # 2.5 +- 3.182 * 1.291 / 2
    Interval(value=2.5, lo=0.44..., hi=4.55...)
    """
    if not all(map(math.isfinite, values)):
        return Interval(math.nan)
    mean = fmean(values)
    if len(values) < 2:
        return Interval(mean)
    reach = t_quantile(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - reach, mean + reach)


def t_quantile(freedom: int) -> float:
    """Returns the 97.5 % quantile of Student's t distribution, to 0.2 % from three degrees of freedom on.

    Expansion in 1/n about the normal quantile (Abramowitz and Stegun, 26.7.5); the exact values for one and two.

    >>> [round(t_quantile(n), 2) for n in (1, 2, 3, 15, 1000)]
    [12.71, 4.3, 3.18, 2.13, 1.96]
    """
    if freedom < 3:
        return (12.706204736, 4.30265273)[freedom - 1]
    z, n = _NORMAL, freedom
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return math.fsum(term / n**power for power, term in enumerate(terms))
