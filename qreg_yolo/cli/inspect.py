"""``qreg-yolo inspect``."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qreg_yolo.cli.process import find_own_code, prepare_ultralytics
from qreg_yolo.io.strict_yaml import ConfigError

if TYPE_CHECKING:
    from qreg_yolo.quant.inspection import Inspection

EXAMPLES = """\b
Examples:
  qreg-yolo inspect runs/yolov5n-lsq-w4a4-s0/weights/best.pt
  qreg-yolo inspect best.pt --json > report.json
  qreg-yolo inspect runs/resnet20-demo-lsq-w4a4-s0/weights/last.safetensors"""


def inspect(
    weights: Annotated[Path, typer.Argument(help="Checkpoint of a detector or a classifier.")],
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
    model: Annotated[str | None, typer.Option(help="A classifier's own package.module:factory.")] = None,
) -> None:
    """Show each layer's bits, codes in use, clipping, noise and cost, and the size of the whole."""
    prepare_ultralytics(online=False)
    with redirect_stdout(sys.stderr):  # Ultralytics' messages on first use do not belong to the report
        report = _report(weights, model)
    print(json.dumps(report.to_dict(), indent=2, allow_nan=False) if as_json else report.to_text())


def _report(weights: Path, model: str | None) -> Inspection:
    from qreg_yolo.classify.checkpoint import is_classifier

    if is_classifier(weights):
        from qreg_yolo.classify.runs import inspect_classifier

        find_own_code(model or "")
        return inspect_classifier(weights, model)
    if model is not None:
        raise ConfigError(f"--model applies to classifiers; '{weights}' is a detector. Remove it.")
    from qreg_yolo.detect.evaluate import inspect_weights

    return inspect_weights(weights)
