"""Options of all commands on records: rows, baselines and severities."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qreg_yolo.cli.process import bar
from qreg_yolo.corrupt.spec import BENCHMARK_NAMES, NAMES
from qreg_yolo.errors import did_you_mean
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.terminal import no_progress

if TYPE_CHECKING:
    from qreg_yolo.analysis.report import Request


def request(
    records: Annotated[Path, typer.Argument(help="Table of measurements (records.csv).")],
    metric: Annotated[
        str | None, typer.Option(help="Any in points or fractions. [default: map50_95; of classifiers accuracy_top1]")
    ] = None,
    severities: Annotated[str | None, typer.Option(help="Such as 3, 1-5 or 1,3. [default: all in the records]")] = None,
    runs: Annotated[
        list[str] | None, typer.Option(help="Only runs whose id matches, such as '*-best-*'. Repeatable.")
    ] = None,
    baseline: Annotated[
        list[str] | None, typer.Option(help="Run id of an fp32 baseline to compare with. Repeatable.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Only this dataset.")] = None,
    split: Annotated[str | None, typer.Option(help="Only this split.")] = None,
    preset: Annotated[str | None, typer.Option(help="Only this preset of the corruptions.")] = None,
    per_image: Annotated[
        Path | None, typer.Option(help="Per-image files. [default: per_image next to the records]")
    ] = None,
    no_intervals: Annotated[bool, typer.Option("--no-intervals", help="Leave out the bootstrap intervals.")] = False,
) -> Request:
    """Returns the options of a command on records as the request of the analysis."""
    from qreg_yolo.analysis.measurements import Selection
    from qreg_yolo.analysis.report import Request

    return Request(
        records=records,
        selection=Selection(metric=metric, runs=runs or (), data=data, split=split, preset=preset),
        baselines=baseline or (),
        severities=parse_severities(severities),
        per_image=per_image,
        intervals=not no_intervals,
        progress=bar if sys.stderr.isatty() else no_progress,  # a table's only output elsewhere is the table
    )


def on_records(command: Callable[..., None]) -> Callable[..., None]:
    """Decorates a command whose first argument is a `Request`: it gets the options of `request`, after its own."""
    shared = inspect.signature(request, locals={"Request": object}, eval_str=True).parameters
    _, *own = inspect.signature(command, locals={"Request": object}, eval_str=True).parameters.values()

    def run(**values: Any) -> None:
        command(request(**{name: values.pop(name) for name in shared}), **values)

    parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*own, *shared.values())]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__doc__ = command.__doc__
    return run


def parse_corruptions(text: str) -> tuple[str, ...]:
    """Returns the corruptions in ``19`` (all), ``15`` (the benchmark's) or ``fog,snow``, in canonical order.

    Raises:
        ConfigError: An unknown corruption; the nearest name is suggested.

    >>> parse_corruptions("snow, gaussian_noise")
    ('gaussian_noise', 'snow')
    """
    named = {"19": NAMES, "15": BENCHMARK_NAMES}.get(text.strip())
    wanted = [word.strip() for word in text.split(",")] if named is None else named
    for word in wanted:
        if word not in NAMES:
            raise ConfigError(
                f"corruptions={text!r}: '{word}' is none of the 19.{did_you_mean(word, NAMES)} Write 19, 15, or names "
                f"separated by commas: {', '.join(NAMES)}."
            )
    return tuple(name for name in NAMES if name in wanted)


def parse_severities(text: str | None) -> tuple[int, ...]:
    """Returns the severities in ``3``, ``1-5`` or ``1,3``; none for None.

    Raises:
        ConfigError: Something else, or a severity outside 1..5.

    >>> parse_severities("1-3,5")
    (1, 2, 3, 5)
    """
    found: set[int] = set()
    for part in text.split(",") if text is not None else []:
        first, dash, last = part.partition("-")
        try:
            low, high = int(first), int(last if dash else first)
        except ValueError:
            low, high = 0, 0
        if not 1 <= low <= high <= 5:
            raise ConfigError(f"severities={text!r} is not a list of severities 1 to 5. Write 3, 1-5 or 1,3.")
        found.update(range(low, high + 1))
    return tuple(sorted(found))
