"""``qreg-yolo inspect``."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from qreg_yolo.cli.offline import prepare_host

EXAMPLES = """\b
Examples:
  qreg-yolo inspect runs/yolov5n-lsq-w4a4-s0/weights/best.pt
  qreg-yolo inspect best.pt --json > report.json"""


def inspect(
    weights: Annotated[Path, typer.Argument(help="Checkpoint, such as weights/best.pt.")],
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """Show each layer's bits, codes in use, clipping, noise and cost, and the size of the whole."""
    prepare_host(online=False)
    with redirect_stdout(sys.stderr):  # what Ultralytics says on first use is no part of the report
        from qreg_yolo.detect.inspection import inspect_weights

        report = inspect_weights(weights)
    print(json.dumps(report.to_dict(), indent=2, allow_nan=False) if as_json else report.to_text())
