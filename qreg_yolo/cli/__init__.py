"""The command line: one file per subcommand, each handler one library call, heavy imports inside it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from qreg_yolo import __version__
from qreg_yolo.cli import (
    classify,
    classify_robustness,
    correct,
    corrupt,
    data,
    inspect,
    noise,
    plot,
    predict,
    ptq,
    robustness,
    study,
    table,
    train,
    val,
)
from qreg_yolo.errors import MissingFileError, UserError
from qreg_yolo.io.strict_yaml import ConfigError

DEBUG_VARIABLE = "QREG_YOLO_DEBUG"
"""Environment variable; set: an error is shown with its traceback."""
_UNEXPECTED = f"(This may be a fault of qreg-yolo. Set {DEBUG_VARIABLE}=1 to see where it happened.)"
INTERRUPTED = 130
"""Exit status after Ctrl-C."""

app = typer.Typer(
    name="qreg-yolo",
    help="Quantization-aware training for Ultralytics YOLOv5, at 1 to 8 bits.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("train", epilog=train.EXAMPLES, short_help="Train a quantized detector.")(train.train)
app.command("val", epilog=val.EXAMPLES)(val.val)
app.command("predict", epilog=predict.EXAMPLES)(predict.predict)
app.command("inspect", epilog=inspect.EXAMPLES, short_help="Show a checkpoint's bits, size and cost.")(inspect.inspect)
app.command("ptq", epilog=ptq.EXAMPLES, short_help="Quantize a checkpoint without training.")(ptq.ptq)
app.command("correct", epilog=correct.EXAMPLES, short_help="Correct a quantized checkpoint; its codes stay.")(
    correct.correct
)
app.command("noise", epilog=noise.EXAMPLES, short_help="Measure quantization noise and its effect.")(noise.noise)
app.command("corrupt", epilog=corrupt.EXAMPLES, short_help="Write corrupted sets of a dataset.")(corrupt.corrupt)
app.command("robustness", epilog=robustness.EXAMPLES, short_help="Measure models on corrupted images.")(
    robustness.robustness
)
app.command("study", epilog=study.EXAMPLES, short_help="Run a study from one file.")(study.study)
app.command("table", epilog=table.EXAMPLES, short_help="Compare quantized runs with their fp32 baselines.")(table.table)
classify.app.command(
    "robustness", epilog=classify_robustness.EXAMPLES, short_help="Measure classifiers on corrupted images."
)(classify_robustness.robustness)
app.add_typer(classify.app, name="classify")
app.add_typer(plot.app, name="plot")
app.add_typer(data.app, name="data")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"qreg-yolo {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Quantization-aware training for Ultralytics YOLOv5, at 1 to 8 bits."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits: 0 done, 1 the run failed, 2 wrong usage, 130 and 143 stopped by a signal.

    Wrong usage is visible in the command line: an option, an argument, a recipe, or a path that does not exist. A file
    that exists but cannot be used (a dataset, a checkpoint) is a failed run.

    Args:
        arguments: Without the program's name; None: the process's own.
    """
    try:
        app(args=None if arguments is None else list(arguments), prog_name="qreg-yolo", standalone_mode=True)
    except SystemExit as end:  # typer's way to end, also after Ctrl-C
        if end.code == INTERRUPTED:
            print("Interrupted.", file=sys.stderr)
        raise
    except (ConfigError, MissingFileError) as error:
        _fail(str(error), 2)
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        if isinstance(error, UserError):
            _fail(str(error), 1)
        _fail(f"{type(error).__name__}: {error}\n{_UNEXPECTED}", 1)


def _fail(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)
