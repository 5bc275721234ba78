"""How long work reports how far it is, without knowing who shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], object]]]
"""Called with a label and the total; gives, for a ``with`` block, the function that takes how much more is done."""


@contextmanager
def no_progress(label: str, total: int) -> Iterator[Callable[[int], object]]:
    """Yields a function that shows nothing."""
    yield lambda step: None
