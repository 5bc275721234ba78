"""Checks of single values that both configurations share."""

from __future__ import annotations

import math
from typing import Any

from qreg_yolo.errors import InvalidTypeError, InvalidValueError

AMP_CHOICES: tuple[str, ...] = ("off", "bf16", "auto")


def check_texts(values: Any, *names: str, unset: tuple[str, ...] = ()) -> None:
    """Raises unless these attributes are texts that are not empty; those named in ``unset`` may be None."""
    for name in (*names, *unset):
        value = getattr(values, name)
        if not (isinstance(value, str) and value) and not (name in unset and value is None):
            raise InvalidTypeError(f"{name}={value!r} is not a name or a path. Give a text.")


def check_bools(values: Any, *names: str) -> None:
    """Raises unless these attributes are true or false."""
    for name in names:
        if not isinstance(getattr(values, name), bool):
            raise InvalidTypeError(f"{name}={getattr(values, name)!r} is not true or false.")


def check_counts(values: Any, minimum: int, *names: str, unset: tuple[str, ...] = ()) -> None:
    """Raises unless these attributes are whole numbers of at least a minimum; those in ``unset`` may be None."""
    for name in (*names, *unset):
        value = getattr(values, name)
        if name in unset and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise InvalidValueError(f"{name}={value!r} is not a whole number of at least {minimum}.")


def check_number(values: Any, name: str, low: float, high: float = math.inf, *, above: bool = False) -> None:
    """Raises unless an attribute is a finite number from ``low`` (or ``above`` it) to ``high``."""
    value = getattr(values, name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidTypeError(f"{name}={value!r} is not a number.")
    if not math.isfinite(value) or not low <= value <= high or (above and value == low):
        least = f"above {low:g}" if above else f"of at least {low:g}"
        span = f"from {low:g} to {high:g}" if high < math.inf else least
        raise InvalidValueError(f"{name}={value!r} is out of range. Give a finite number {span}.")
