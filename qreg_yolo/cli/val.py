"""``qreg-yolo val``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qreg_yolo.cli.offline import prepare_host
from qreg_yolo.config import COMMAND_LINE, check_train, parse_overrides
from qreg_yolo.strict_yaml import ConfigError

EXAMPLES = """\b
Examples:
  qreg-yolo val runs/yolov5n-lsq-w4a4-s0/weights/best.pt
  qreg-yolo val best.pt --data voc split=test imgsz=640"""


def val(
    weights: Annotated[Path, typer.Argument(help="Checkpoint, such as weights/best.pt.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Any Ultralytics validation argument.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Data YAML, demo or voc. [default: the checkpoint's]")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. [default: all cores]")] = None,
    online: Annotated[bool, typer.Option("--online", help="Let Ultralytics use the network.")] = False,
) -> None:
    """Measure a checkpoint."""
    arguments = parse_overrides(overrides or [])
    if "data" in arguments:
        data = _one("data", data, arguments.pop("data"))
    check_train(arguments, COMMAND_LINE)
    prepare_host(online=online)
    from qreg_yolo.detect import runs

    print(runs.validate(weights, data, arguments, threads).table)


def _one(name: str, option: str | None, value: object) -> str:
    if option is not None and option != value:
        raise ConfigError(f"--{name} {option} and {name}={value} disagree. Give one of them.")
    return str(value)
