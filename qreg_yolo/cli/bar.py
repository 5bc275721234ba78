"""How far work is, on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer


@contextmanager
def bar(label: str, total: int) -> Iterator[Callable[[int], object]]:
    """Yields the function that moves a progress bar on stderr."""
    steps = max(1, total // 100)
    with typer.progressbar(length=total, label=f"{label:12}", file=sys.stderr, update_min_steps=steps) as shown:
        yield shown.update
        shown.finish()
        shown.render_progress()  # 100%, after the last steps too
