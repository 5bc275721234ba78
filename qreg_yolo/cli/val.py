"""``qreg-yolo val``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qreg_yolo.cli.options import ClassMap, Online, Threads
from qreg_yolo.cli.process import prepare_ultralytics
from qreg_yolo.config.detection import HeadConfig
from qreg_yolo.config.key_values import parse_overrides
from qreg_yolo.config.sections import COMMAND_LINE, named
from qreg_yolo.config.ultralytics_arguments import KINDS
from qreg_yolo.config.ultralytics_keys import check_values
from qreg_yolo.io.strict_yaml import ConfigError

EXAMPLES = """\b
Examples:
  qreg-yolo val runs/yolov5n-lsq-w4a4-s0/weights/best.pt
  qreg-yolo val best.pt --data voc split=test imgsz=640
  qreg-yolo val --head anchor --weights yolov5n.pt --class-map coco2voc --data voc"""


def val(
    checkpoint: Annotated[
        str | None, typer.Argument(metavar="[WEIGHTS]", help="Checkpoint, such as weights/best.pt.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Any Ultralytics validation argument.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="The checkpoint, if it is not the first argument.")] = None,
    head: Annotated[str | None, typer.Option(help="anchor_free | anchor. [default: the checkpoint's]")] = None,
    class_map: ClassMap = None,
    data: Annotated[str | None, typer.Option(help="Data YAML, demo or voc. [default: the checkpoint's]")] = None,
    threads: Threads = None,
    online: Online = False,
) -> None:
    """Measure a checkpoint."""
    weights, words = _checkpoint(checkpoint, weights, overrides or [])
    if head is not None:
        with named("--head"):
            HeadConfig(kind=head)
    arguments = parse_overrides(words, KINDS)
    if "data" in arguments:
        data = _one("data", data, arguments.pop("data"))
    check_values(arguments, COMMAND_LINE, "val")
    prepare_ultralytics(online=online)
    from qreg_yolo.detect import evaluate

    print(evaluate.validate(weights, data, arguments, threads, head, class_map).table)


def _checkpoint(first: str | None, option: Path | None, words: list[str]) -> tuple[Path, list[str]]:
    """Returns the checkpoint, given as first argument or by ``--weights``, and the ``key=value`` words."""
    if option is None:
        if first is None:
            raise ConfigError("No checkpoint was given. Give one, such as weights/best.pt.")
        return Path(first), words
    if first is None or "=" in first:
        return option, [*([] if first is None else [first]), *words]
    raise ConfigError(f"'{first}' and --weights {option} are both given. Remove one of them.")


def _one(name: str, option: str | None, value: object) -> str:
    if option is not None and option != value:
        raise ConfigError(f"--{name} {option} and {name}={value} disagree. Give one of them.")
    return str(value)
