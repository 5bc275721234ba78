"""Rounds in which peers alternate, each in its own process.

In one process a peer's time would depend on the memory that the others have left behind, and on what they have
told the allocator and the compiler.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

READY = "ready"


def serve(build: Callable[[], Callable[[int], None]]) -> None:
    """Builds a peer, then runs and times one turn for each line read; `alternate` is at the other end."""
    with _stdout_for_answers() as answer:
        turn = build()
        answer(READY)
        for number, _ in enumerate(sys.stdin):
            start = time.perf_counter()
            turn(number)
            answer(repr(time.perf_counter() - start))


@contextmanager
def _stdout_for_answers() -> Iterator[Callable[[str], None]]:
    """Gives a way to write to standard output; whatever else is printed there goes to standard error."""
    with os.fdopen(os.dup(1), "w") as output:
        os.dup2(2, 1)
        yield lambda line: print(line, file=output, flush=True)


def alternate(commands: dict[str, list[str]], rounds: int, warmup: int = 1) -> dict[str, list[float]]:
    """Returns each peer's seconds by round, after ``warmup`` rounds; in every round the order moves on by one.

    Args:
        commands: What starts each peer's process, which calls `serve`.
        rounds: Turns that count.
        warmup: Turns before them.

    Raises:
        RuntimeError: A process ended before its time; what it said is on standard error.
    """
    workers: dict[str, subprocess.Popen[str]] = {}
    try:
        for name, command in commands.items():
            _progress(f"building {name}")  # one at a time: building includes compiling, which uses all cores
            workers[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            if _answer(workers[name], name) != READY:
                raise RuntimeError(f"{name} answered something else than '{READY}'.")
        return _timed(workers, rounds, warmup)
    finally:
        _end(workers.values())


def _timed(workers: dict[str, subprocess.Popen[str]], rounds: int, warmup: int) -> dict[str, list[float]]:
    names = list(workers)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(warmup + rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            _progress(f"round {number + 1} of {warmup + rounds}: {name}")
            pipe = workers[name].stdin
            assert pipe is not None
            print(file=pipe, flush=True)
            seconds[name].append(float(_answer(workers[name], name)))
    return {name: values[warmup:] for name, values in seconds.items()}


def _answer(worker: subprocess.Popen[str], name: str) -> str:
    assert worker.stdout is not None
    line = worker.stdout.readline().strip()
    if not line:
        raise RuntimeError(f"{name} ended with exit code {worker.wait()}.")
    return line


def _end(workers: Iterable[subprocess.Popen[str]]) -> None:
    for worker in workers:
        worker.kill()
        worker.communicate()


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
