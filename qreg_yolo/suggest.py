"""Nearest-name hints for error texts (standard library only, below every other module)."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


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
