"""Initial ranges from a tensor's values: least squared error, extremes, or percentiles.

The values come as `(groups, count)`: one group for a range per tensor, one per output channel for a range per channel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qreg_yolo.quant.functional.common import MIN_STEP, compute_dtype
from qreg_yolo.quant.functional.lsq import lsq_codes
from qreg_yolo.quant.functional.lsq_plus import lsq_plus_initial_range, zero_point

PERCENTILE = 99.99
"""Percentile of the values at the upper end of the range, its complement at the lower end."""
_COARSE = tuple(0.93**k for k in range(64))
"""First stage of the search: fractions of the step that spans all values, down to 1 %."""
_FINE = tuple(1.0 + 0.004 * k for k in range(-17, 18) if k)
"""Second stage: factors of the best step so far, up to its neighbours."""
_MAX_FITS = 20
"""Least-squares fits from the best start."""


def extremes(rows: Tensor, init: str) -> tuple[Tensor, Tensor]:
    """Returns the lower and upper end of each group's range, `(groups,)`.

    Args:
        rows: `(groups, count)`.
        init: `minmax`: smallest and largest value; `percentile`: `PERCENTILE` and its complement, interpolated.
    """
    if init == "minmax":
        return rows.amin(1), rows.amax(1)
    ordered = rows.sort(1).values
    place = (rows.shape[1] - 1) * PERCENTILE / 100
    below = int(place)
    above = min(below + 1, rows.shape[1] - 1)
    high = torch.lerp(ordered[:, below], ordered[:, above], place - below)
    low = torch.lerp(ordered[:, -1 - below], ordered[:, -1 - above], place - below)
    return low, high


def spanning_step(low: Tensor, high: Tensor, *, quant_min: int, quant_max: int) -> Tensor:
    """Returns the smallest step at which the codes ``quant_min`` to ``quant_max`` span ``low`` to ``high``."""
    step = high.clamp_min(0.0) / quant_max if quant_max else torch.zeros_like(high)
    return (torch.maximum(step, low / quant_min) if quant_min else step).clamp_min(MIN_STEP)


def initial_step(x: Tensor, init: str, *, quant_min: int, quant_max: int, binary: bool = False) -> Tensor:
    """Returns the initial step of each group, `(groups,)`.

    ``mse`` searches the step with the least squared error ``||Q(x) - x||^2``: the best of 64 fractions of the spanning
    step (1 to 0.01, each 7 % below the last), then of steps at most 7 % beside it (0.4 % apart), then least-squares
    fits ``s = <q, x> / <q, q>`` to the codes ``q`` until no group gains. With the two codes -1 and +1 (``binary``) the
    optimum is ``<|x|>``.

    Args:
        x: `(groups, count)`, finite.
        init: `mse` | `minmax` | `percentile`.
        quant_min: Smallest code, at most 0.
        quant_max: Largest code, at least 0.
        binary: One signed bit.
    """
    rows = x.detach().to(compute_dtype(x))
    if init != "mse":
        return spanning_step(*extremes(rows, init), quant_min=quant_min, quant_max=quant_max)
    if binary:
        return rows.abs().mean(1).clamp_min(MIN_STEP)
    return _search(rows, quant_min, quant_max)[0]


def _search(rows: Tensor, quant_min: int, quant_max: int) -> tuple[Tensor, Tensor]:
    """Returns the steps of least squared error found, and the errors, both `(groups,)`."""
    widest = spanning_step(rows.amin(1), rows.amax(1), quant_min=quant_min, quant_max=quant_max)
    best, error = widest, torch.full_like(widest, torch.inf)
    for ratios in (_COARSE, _FINE):
        around = best
        for ratio in ratios:
            step = (around * ratio).clamp_min(MIN_STEP)
            squared, _ = _error_and_fit(rows, step, quant_min, quant_max)
            best, error = torch.where(squared < error, step, best), torch.minimum(squared, error)
    step = _error_and_fit(rows, best, quant_min, quant_max)[1]
    for _ in range(_MAX_FITS):
        squared, fitted = _error_and_fit(rows, step, quant_min, quant_max)
        gains = squared < error
        if not bool(gains.any()):
            break
        best, error = torch.where(gains, step, best), torch.where(gains, squared, error)
        step = fitted
    return best, error


def _error_and_fit(rows: Tensor, step: Tensor, quant_min: int, quant_max: int) -> tuple[Tensor, Tensor]:
    """Returns the squared error at ``step``, and the step that fits its codes best, both `(groups,)`."""
    codes = lsq_codes(rows, step[:, None], quant_min=quant_min, quant_max=quant_max)
    fitted = (codes * rows).sum(1) / codes.square().sum(1).clamp_min(1.0)
    error = codes.mul_(step[:, None]).sub_(rows).square_().sum(1)
    return error, fitted.clamp_min(MIN_STEP)


def initial_range(
    x: Tensor, init: str, *, quant_min: int, quant_max: int, integer: bool = False
) -> tuple[Tensor, Tensor]:
    """Returns the initial step and offset (0-D) of a grid ``s * code + beta``.

    ``mse``: step and offset together, by `lsq_plus_initial_range`. With an integer zero point ``z``, the zero points
    next to that result's and to the extremes' are tried, each with its step of least squared error: the grid
    ``s (code - z)`` is a symmetric one with the codes ``quant_min - z`` to ``quant_max - z``.

    Args:
        x: Finite values, at least one.
        init: `mse` | `minmax` | `percentile`.
        quant_min: Smallest code.
        quant_max: Largest code.
        integer: Whether 0 must be on the grid: the offset is then ``-z s`` with an integer ``z`` among the codes.
    """
    row = x.detach().to(compute_dtype(x)).reshape(1, -1)
    low, high = (end[0] for end in extremes(row, "minmax" if init == "mse" else init))
    if integer:
        low, high = low.clamp_max(0.0), high.clamp_min(0.0)
    step = ((high - low) / (quant_max - quant_min)).clamp_min(MIN_STEP)
    offset = low - quant_min * step
    if init == "mse":
        fits = [lsq_plus_initial_range(row, quant_min=quant_min, quant_max=quant_max)]
        if not integer:
            return fits[0]
        return _integer_range(row, [*fits, (step, offset)], quant_min, quant_max)
    if integer:
        offset = -zero_point(step, offset, quant_min=quant_min, quant_max=quant_max) * step
    return step, offset


def _integer_range(
    row: Tensor, near: list[tuple[Tensor, Tensor]], quant_min: int, quant_max: int
) -> tuple[Tensor, Tensor]:
    """Returns the best step and offset with a zero point next to one of the given ranges'."""
    exact = torch.stack([-offset / step for step, offset in near])
    tried = torch.cat([exact.floor(), exact.ceil()]).clamp(quant_min, quant_max).tolist()
    found = [(*_search(row, quant_min - int(z), quant_max - int(z)), z) for z in dict.fromkeys(tried)]
    step, _, z = min(found, key=lambda one: float(one[1]))
    return step[0], -z * step[0]
