"""``qreg-yolo noise``."""

from __future__ import annotations

import json
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from qreg_yolo.cli import options as shared
from qreg_yolo.cli.classify import DataDir, Device, NoVerify
from qreg_yolo.cli.process import bar, prepare_ultralytics
from qreg_yolo.config.sections import COMMAND_LINE, named
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.noise.sweep import Sweep

EXAMPLES = """\b
Examples:
  qreg-yolo noise runs/resnet20-demo-fp32-s0/weights/last.safetensors --bits 2,4,8 --methods lsq,pact,dorefa
  qreg-yolo noise runs/yolov5n-lsq-w4a4-s0/weights/best.pt --bits 1-8,32 --limit 16 --json
  qreg-yolo noise w4a4/last.pt --against runs/noise-fp32
  qreg-yolo noise best.pt --methods lsq+ --no-loss"""

PROJECT = "runs"


def noise(
    weights: Annotated[Path, typer.Argument(help="Checkpoint of a detector or a classifier.")],
    bits: Annotated[str, typer.Option(help="Widths of the weights, such as 2,4,8 or 1-8,32.")] = "2,4,8",
    methods: Annotated[str, typer.Option(help="Methods: lsq,lsq+,pact,dorefa.")] = "lsq,pact,dorefa",
    first_last_bits: shared.FirstLastBits = None,
    per_channel: shared.PerChannel = None,
    data: Annotated[str | None, typer.Option(help="Dataset or data YAML. [default: the checkpoint's]")] = None,
    data_dir: DataDir = None,
    no_verify: NoVerify = False,
    split: Annotated[str | None, typer.Option(help="Split of the data. [default: train]")] = None,
    limit: Annotated[int | None, typer.Option(help="Number of images. [default: 64; of detectors 16]")] = None,
    imgsz: Annotated[int | None, typer.Option(help="Image size of a detector, px. [default: its training's]")] = None,
    class_map: shared.ClassMap = None,
    draws: Annotated[int, typer.Option(help="Random perturbations per distribution.")] = 16,
    seed: Annotated[int, typer.Option(help="Seed of the perturbations.")] = 0,
    no_loss: Annotated[
        bool, typer.Option("--no-loss", help="Measure the noise alone, without gradients and data.")
    ] = False,
    model: Annotated[str | None, typer.Option(help="A classifier's own package.module:factory.")] = None,
    device: Device = None,
    threads: shared.Threads = None,
    against: Annotated[Path | None, typer.Option(help="noise.json of its fp32 baseline: compare gradients.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of tables.")] = False,
    out: Annotated[Path | None, typer.Option(help="Output folder. [default: runs/noise]")] = None,
) -> None:
    """Measure the noise of quantized weights and its effect on the loss, against the theorem's prediction."""
    with named(COMMAND_LINE):
        sweep = Sweep(
            methods=tuple(methods.split(",")), bits=parse_bits(bits), per_channel=bool(per_channel), draws=draws,
            first_last_bits=shared.first_last(first_last_bits), seed=seed,
        )  # fmt: skip
    asked: dict[str, Any] = {
        "weights": weights, "sweep": sweep, "losses": not no_loss, "data": data, "split": split, "limit": limit,
        "device": device, "threads": threads, "folder": out or Path(PROJECT),
    }  # fmt: skip
    from qreg_yolo.analysis.noise import read_report

    baseline = None if against is None else read_report(against)
    if baseline is not None and no_loss:
        raise ConfigError("--against compares gradients, and --no-loss measures none. Remove one of the two.")
    own = {"data_dir": data_dir, "verify": not no_verify, "model": model}
    prepare_ultralytics(online=False)
    with redirect_stdout(sys.stderr):  # Ultralytics' messages on first use do not belong to the report
        report = _measure(weights, asked, own, {"imgsz": imgsz, "class_map": class_map})
    from qreg_yolo.analysis.noise import FIGURE, REPORT, compare_gradients, publish
    from qreg_yolo.io.files import new_folder

    folder = new_folder(Path(PROJECT).absolute(), "noise") if out is None else out
    text = publish(report, folder)
    if baseline is not None:  # written once before, in case the two cannot be compared
        report = {**report, "against": {"weights": baseline["weights"], "rows": compare_gradients(report, baseline)}}
        text = publish(report, folder, baseline)
    print(json.dumps(report, indent=2, allow_nan=False) if as_json else text)
    print(f"Results: {folder} ({REPORT}, {FIGURE})", file=sys.stderr if as_json else sys.stdout)


def _measure(weights: Path, asked: dict[str, Any], own: dict[str, Any], of_detectors: dict[str, Any]) -> dict[str, Any]:
    if shared.of_a_classifier(weights, own, of_detectors, {}):
        from qreg_yolo.classify import noise as classifier

        return classifier.measure(classifier.ClassifierNoiseRequest(**asked, **own), bar)
    from qreg_yolo.detect import noise as detector

    return detector.measure(detector.DetectorNoiseRequest(**asked, **of_detectors), bar)


def parse_bits(text: str) -> tuple[int, ...]:
    """Returns the widths in ``2,4,8`` or ``1-8,32``, in their order.

    Raises:
        ConfigError: Something else than whole numbers.

    >>> parse_bits("1-3,32")
    (1, 2, 3, 32)
    """
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,2})(?:-(\d{1,2}))?\s*", part)
        if match is None:
            raise ConfigError(f"bits={text!r} is not a list of widths. Write 2,4,8 or 1-8,32.")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return tuple(found)
