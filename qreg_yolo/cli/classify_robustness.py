"""``qreg-yolo classify robustness``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qreg_yolo.cli import options as shared
from qreg_yolo.cli.classify import Data, DataDir, Device, Download, NoVerify, fetch
from qreg_yolo.cli.process import find_own_code, prepare_ultralytics, rate_bar
from qreg_yolo.cli.robustness import Weights, output_folder, parted
from qreg_yolo.metrics.conditions import parse_corruptions, parse_severities

EXAMPLES = """\b
Examples:
  qreg-yolo classify robustness fp32.safetensors w4a4.safetensors --data cifar10 --data-dir DIR
  qreg-yolo classify robustness *.safetensors --preset imagenet224 --severities 1 name=imagenet-constants
  qreg-yolo classify robustness fp32.safetensors w4a4.safetensors --limit 2000 --corruptions 15 --out quick
  qreg-yolo classify robustness fp32.safetensors w4a4.safetensors --published CIFAR-10-C name=published"""


def robustness(
    arguments: Weights,
    data: Data = None,
    data_dir: DataDir = None,
    no_verify: NoVerify = False,
    download: Download = False,
    corruptions: shared.MeasuredCorruptions = "19",
    severities: shared.Severities = "1-5",
    limit: shared.Limit = None,
    preset: Annotated[
        str | None, typer.Option(help="cifar32 | imagenet224 | tiny64 | inception299. [default: cifar32]")
    ] = None,
    published: Annotated[
        Path | None, typer.Option(help="Folder of CIFAR-10-C's or CIFAR-100-C's .npy files, instead of corrupting.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the corruptions. [default: 0]")] = None,
    frost_dir: shared.FrostDir = None,
    batch: shared.BatchSize = None,
    model: Annotated[str | None, typer.Option(help="The checkpoints' own package.module:factory.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that corrupt. [default: CPU 0, GPU cores]")] = None,
    device: Device = None,
    threads: shared.Threads = None,
    out: Annotated[Path | None, typer.Option(help="Output folder. [default: runs/robustness/DATA]")] = None,
) -> None:
    """Measure classifiers on clean and corrupted images, in one pass; the same call resumes."""
    names, levels = parse_corruptions(corruptions, none=True), parse_severities(severities)
    weights, variants, overrides = parted(arguments)
    project, name = output_folder(out, overrides)
    prepare_ultralytics(online=download, checkpoints=False)
    fetch(data or "demo", data_dir, download)
    find_own_code(model or "")
    from qreg_yolo.classify.robustness import ClassifierRobustnessRequest, measure

    request = ClassifierRobustnessRequest(
        weights=weights, variants=variants, project=project, name=name, data=data, data_dir=data_dir,
        verify=not no_verify, model=model, published=published, corruptions=names, severities=levels, limit=limit,
        batch=batch, seed=seed, preset=preset, frost_dir=frost_dir, workers=workers, device=device, threads=threads,
    )  # fmt: skip
    print(measure(request, rate_bar).table)
