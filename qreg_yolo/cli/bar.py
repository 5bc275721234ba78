"""How far work is, on stderr."""

from __future__ import annotations

import sys
import time
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


@contextmanager
def rate_bar(label: str, total: int) -> Iterator[Callable[[int], object]]:
    """Yields the function that moves a progress bar on stderr, with the images per second and the time left."""
    start, seen = time.monotonic(), 0

    def advance(count: int) -> None:
        nonlocal seen
        seen += count
        if sys.stderr.isatty():  # elsewhere each new label would be a line
            shown.label = f"{label}, {seen / max(time.monotonic() - start, 1e-9):.1f} images/s"
        shown.update(count)

    with typer.progressbar(length=total, label=label, file=sys.stderr, show_pos=True) as shown:
        yield advance
