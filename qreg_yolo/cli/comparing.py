"""Options of all commands on records: rows, baselines and severities."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qreg_yolo.cli.process import bar
from qreg_yolo.metrics.conditions import parse_severities
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
