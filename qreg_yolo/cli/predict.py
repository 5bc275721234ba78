"""``qreg-yolo predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qreg_yolo.cli.options import Online, Threads
from qreg_yolo.cli.process import prepare_ultralytics
from qreg_yolo.config.key_values import parse_overrides
from qreg_yolo.config.sections import COMMAND_LINE
from qreg_yolo.config.ultralytics_arguments import KINDS
from qreg_yolo.config.ultralytics_keys import check_values

EXAMPLES = """\b
Examples:
  qreg-yolo predict runs/yolov5n-lsq-w4a4-s0/weights/best.pt photos/
  qreg-yolo predict best.pt photo.jpg conf=0.4 save_txt=true"""


def predict(
    weights: Annotated[Path, typer.Argument(help="Checkpoint, such as weights/best.pt.")],
    source: Annotated[str, typer.Argument(help="Image or video, folder, or quoted pattern with '*'.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Any Ultralytics prediction argument.")
    ] = None,
    threads: Threads = None,
    online: Online = False,
) -> None:
    """Draw a checkpoint's detections on images."""
    arguments = parse_overrides(overrides or [], KINDS)
    check_values(arguments, COMMAND_LINE, "predict")
    prepare_ultralytics(online=online)
    from qreg_yolo.detect import evaluate

    print(evaluate.predict(weights, source, arguments, threads).table)
