"""Terminal output: progress callbacks and tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], object]]]
"""Called with a label and the total; gives, for a ``with`` block, the function that takes each further step."""


@contextmanager
def no_progress(label: str, total: int) -> Iterator[Callable[[int], object]]:
    """Yields a function that shows nothing."""
    yield lambda step: None


def table(rows: Iterable[Sequence[str]], left: Iterable[int] = (0,)) -> list[str]:
    r"""Returns rows of texts as lines with aligned columns.

    Args:
        rows: The header and the rows, all as long.
        left: Columns that are aligned to the left; the others are to the right.

    >>> print("\n".join(table([["", "mAP50"], ["best epoch", "0.5"]])))
                mAP50
    best epoch    0.5
    """
    rows, left = list(rows), set(left)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            text.ljust(width) if i in left else text.rjust(width) for i, (text, width) in enumerate(pairs)
        ).rstrip()
        for pairs in (zip(row, widths, strict=True) for row in rows)
    ]


def number(value: float | None, spec: str) -> str:
    """Returns a formatted number; a dash for None and nan."""
    return "-" if value is None or math.isnan(value) else format(value, spec)
