"""Progress callbacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], object]]]
"""Takes a label and the total; its ``with`` block gets the function that takes the number of further steps done."""


@contextmanager
def no_progress(label: str, total: int) -> Iterator[Callable[[int], object]]:
    """Yields a function that shows nothing."""
    yield lambda step: None
