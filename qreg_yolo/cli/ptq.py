"""``qreg-yolo ptq``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from qreg_yolo.cli import options as shared
from qreg_yolo.cli.classify import DataDir, Device, NoVerify
from qreg_yolo.cli.process import prepare_ultralytics
from qreg_yolo.config.detection import HeadConfig
from qreg_yolo.config.sections import COMMAND_LINE, named
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.quant.spec import QuantSpec

EXAMPLES = """\b
Examples:
  qreg-yolo ptq runs/yolov5n-fp32-s0/weights/best.pt --bits 8
  qreg-yolo ptq yolov5n.pt --bits 8 --data voc --class-map coco2voc imgsz=640
  qreg-yolo ptq fp32.pt --weight-bits 4 --act-bits 8 --method lsq --per-channel
  qreg-yolo ptq runs/resnet20-demo-fp32-s0/weights/last.safetensors --bits 4"""

_QUANT = (
    "bits", "weight_bits", "act_bits", "method", "weight_only", "per_channel", "first_last_bits", "signed", "init",
    "offset",
)  # fmt: skip


def ptq(
    weights: Annotated[Path, typer.Argument(metavar="CKPT", help="Checkpoint in full precision; also YOLOv5 weights.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Any Ultralytics validation argument.")
    ] = None,
    bits: Annotated[int | None, typer.Option(help="Width of weights and activations: 1..8. [default: 8]")] = None,
    weight_bits: shared.WeightBits = None,
    act_bits: shared.ActBits = None,
    method: Annotated[str | None, typer.Option(help="lsq | lsq+ | pact | dorefa. [default: lsq+]")] = None,
    weight_only: shared.WeightOnly = None,
    per_channel: shared.PerChannel = None,
    first_last_bits: shared.FirstLastBits = None,
    signed: shared.Signed = None,
    init: Annotated[str | None, typer.Option(help="Ranges: mse | paper | minmax | percentile. [default: mse]")] = None,
    offset: shared.Offset = None,
    images: Annotated[int, typer.Option(min=1, help="Training images that set the ranges.")] = 64,
    data: Annotated[str | None, typer.Option(help="Dataset or data YAML. [default: the checkpoint's]")] = None,
    split: Annotated[str | None, typer.Option(help="Split that is measured. [default: as val]")] = None,
    class_map: shared.ClassMap = None,
    head: Annotated[str | None, typer.Option(help="anchor_free | anchor. [default: the checkpoint's]")] = None,
    data_dir: DataDir = None,
    no_verify: NoVerify = False,
    model: Annotated[str | None, typer.Option(help="A classifier's own package.module:factory.")] = None,
    device: Device = None,
    threads: shared.Threads = None,
    online: shared.Online = False,
) -> None:
    """Quantize a checkpoint without training it, and measure it: a detector or a classifier."""
    options = shared.given(locals())
    spec = _spec({name: value for name, value in options.items() if name in _QUANT})
    if head is not None:
        with named("--head"):
            HeadConfig(kind=head)
    arguments = shared.arguments_of(overrides, "val", split=split, data=data, device=device)
    prepare_ultralytics(online=online)
    own = {"data_dir": data_dir, "verify": not no_verify, "model": model}
    asked = {"weights": weights, "spec": spec, "images": images}
    print(_quantized(weights, asked, own, {"class_map": class_map, "head": head}, arguments, threads))


def _spec(options: dict[str, Any]) -> QuantSpec:
    widths = {} if {"bits", "weight_bits", "act_bits"} & set(options) else {"bits": 8}
    with named(COMMAND_LINE):
        spec = QuantSpec.from_options({"method": "lsq+", "init": "mse", **widths, **options})
    if spec.is_float:
        raise ConfigError("--bits 32 quantizes nothing. Give 1 to 8.")
    return spec


def _quantized(
    weights: Path,
    asked: dict[str, Any],
    own: dict[str, Any],
    of_detectors: dict[str, Any],
    arguments: dict[str, Any],
    threads: int | None,
) -> str:
    if shared.of_a_classifier(weights, own, of_detectors, arguments):
        from qreg_yolo.classify import ptq as classifier
        from qreg_yolo.classify.runs import Measuring

        measuring = Measuring(**own, **arguments, threads=threads)
        return classifier.quantize(classifier.PTQRequest(**asked, measuring=measuring))
    from qreg_yolo.detect import ptq as detector

    data = arguments.pop("data", None)
    request = detector.PTQRequest(**asked, **of_detectors, data=data, threads=threads, arguments=arguments)
    return detector.quantize(request).table
