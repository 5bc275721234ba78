"""Nearest-name hints for error texts (standard library only, below every other module)."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from qreg_yolo.errors import InvalidValueError


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Returns `` Did you mean 'x'?`` for the candidate nearest to ``name``, or an empty string.

    The text starts with a space so that it can be appended to a sentence.

    >>> did_you_mean("epcohs", ["epochs", "imgsz"])
    " Did you mean 'epochs'?"
    >>> did_you_mean("zzz", ["epochs"])
    ''
    """
    close = get_close_matches(str(name), list(candidates), n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raises a `ValueError` unless ``value`` is one of ``choices``; the nearest is named."""
    if value not in choices:
        raise InvalidValueError(
            f"{name}={value!r} is not one of: {', '.join(choices)}.{did_you_mean(str(value), choices)}"
        )
