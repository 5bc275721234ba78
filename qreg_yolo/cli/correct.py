"""``qreg-yolo correct``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from qreg_yolo.cli import options as shared
from qreg_yolo.cli.classify import DataDir, Device, NoVerify
from qreg_yolo.cli.process import prepare_ultralytics
from qreg_yolo.io.strict_yaml import ConfigError

EXAMPLES = """\b
Examples:
  qreg-yolo correct runs/yolov5n-lsqplus-w4a4-s0/weights/last.pt
  qreg-yolo correct best.pt --epochs 0 --bn-batches 20
  qreg-yolo correct runs/resnet20-demo-lsq-w4a4-s0/weights/last.safetensors"""


def correct(
    weights: Annotated[Path, typer.Argument(metavar="CKPT", help="Quantized checkpoint.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Any Ultralytics training argument.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=0, help="Passes over the training set; 0: no correction.")] = 1,
    lr0: Annotated[float | None, typer.Option(min=0.0, help="Learning rate at the start. [default: 0.0005]")] = None,
    bn_batches: Annotated[
        int, typer.Option(min=0, help="Training batches to estimate BatchNorm's statistics on first; 0: they stay.")
    ] = 0,
    data: Annotated[str | None, typer.Option(help="Dataset or data YAML. [default: the checkpoint's]")] = None,
    data_dir: DataDir = None,
    no_verify: NoVerify = False,
    model: Annotated[str | None, typer.Option(help="A classifier's own package.module:factory.")] = None,
    device: Device = None,
    threads: shared.Threads = None,
    online: shared.Online = False,
) -> None:
    """Correct a quantized checkpoint: train only BatchNorm's scales and shifts and the output layers' (codes stay)."""
    if not epochs and not bn_batches:
        raise ConfigError("--epochs 0 corrects nothing. Give 1 or more, or --bn-batches.")
    arguments = shared.arguments_of(overrides, "train", data=data, device=device)
    prepare_ultralytics(online=online)
    asked: dict[str, Any] = {"weights": weights, "epochs": epochs, "bn_batches": bn_batches}
    asked |= {} if lr0 is None else {"lr0": lr0}
    own = {"data_dir": data_dir, "verify": not no_verify, "model": model}
    print(_corrected(weights, asked, own, arguments, threads))


def _corrected(
    weights: Path, asked: dict[str, Any], own: dict[str, Any], arguments: dict[str, Any], threads: int | None
) -> str:
    if shared.of_a_classifier(weights, own, {}, arguments):
        from qreg_yolo.classify import correct as classifier
        from qreg_yolo.classify.runs import Measuring

        measuring = Measuring(**own, **arguments, threads=threads)
        return classifier.correct(classifier.CorrectionRequest(**asked, measuring=measuring))
    from qreg_yolo.detect import correct as detector

    data = arguments.pop("data", None)
    return detector.correct(detector.CorrectionRequest(**asked, data=data, threads=threads, arguments=arguments)).table
