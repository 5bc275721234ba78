"""``qreg-yolo robustness``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qreg_yolo.cli import options as shared
from qreg_yolo.cli.process import prepare_ultralytics, rate_bar
from qreg_yolo.config.key_values import Kind, check_folder_name, parse_overrides
from qreg_yolo.errors import did_you_mean
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.metrics.conditions import parse_corruptions, parse_severities

EXAMPLES = """\b
Examples:
  qreg-yolo robustness fp32.pt w4a4.pt --data voc --severities 1-5
  qreg-yolo robustness fp32.pt w4a4.pt --data voc --corruptions fog,snow --severities 3 --limit 100 name=quick
  qreg-yolo robustness *.pt --data voc.yaml --corruptions 15 --out square
  qreg-yolo robustness fp32.pt w4a4.pt --data voc --corruptions none --out clean"""
PROJECT = "runs/robustness"
Weights = Annotated[
    list[str],
    typer.Argument(
        metavar="[VARIANT=]WEIGHTS... [project=FOLDER] [name=NAME]",
        help="Checkpoints, the baseline among them; VARIANT= names one in the records.",
    ),
]
_PLACES = ("project", "name")
_CHECKPOINTS = (".pt", ".safetensors")


def robustness(
    arguments: Weights,
    data: Annotated[str, typer.Option(help="Data YAML, demo or voc.")],
    corruptions: shared.MeasuredCorruptions = "19",
    severities: shared.Severities = "1-5",
    split: Annotated[str | None, typer.Option(help="train | val | test. [default: test, else val]")] = None,
    limit: shared.Limit = None,
    batch: shared.BatchSize = None,
    imgsz: Annotated[int | None, typer.Option(help="Image size, px. [default: each model's own]")] = None,
    seed: shared.CorruptionSeed = 0,
    preset: Annotated[str, typer.Option(help="imagenet224 | inception299 | tiny64 | cifar32.")] = "imagenet224",
    frost_dir: shared.FrostDir = None,
    workers: Annotated[int | None, typer.Option(help="Processes that corrupt. [default: CPU 0, GPU 8]")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, or the number of a GPU.")] = None,
    threads: shared.Threads = None,
    class_map: shared.ClassMap = None,
    skip_bad: shared.SkipBad = False,
    coco_eval: Annotated[bool, typer.Option("--coco-eval", help="Compare mAP with pycocotools.")] = False,
    out: Annotated[Path | None, typer.Option(help="Output folder. [default: runs/robustness/DATA]")] = None,
) -> None:
    """Measure checkpoints on clean and corrupted images, in one pass; the same call resumes."""
    names, levels = parse_corruptions(corruptions, none=True), parse_severities(severities)
    weights, variants, overrides = parted(arguments)
    project, name = output_folder(out, overrides)
    folder = project / (Path(data).stem if name is None else name)
    prepare_ultralytics(online=False)
    from qreg_yolo.detect.robustness import DetectorRobustnessRequest, measure

    request = DetectorRobustnessRequest(
        weights=weights, variants=variants, data=data, out=folder, corruptions=names, severities=levels, split=split,
        limit=limit, batch=batch, imgsz=imgsz, seed=seed, preset=preset, frost_dir=frost_dir, workers=workers,
        device=device, threads=threads, class_map=class_map, skip_bad=skip_bad, coco_eval=coco_eval,
    )  # fmt: skip
    print(measure(request, rate_bar).table)


def parted(arguments: list[str]) -> tuple[list[Path], dict[Path, str], list[str]]:
    """Returns the checkpoints, the variants of those given as ``VARIANT=CHECKPOINT``, and the other words.

    Raises:
        ConfigError: There is no checkpoint.
    """
    weights, variants, words = list[Path](), dict[Path, str](), list[str]()
    for one in arguments:
        name, equals, path = one.partition("=")
        if not equals or Path(one).exists():
            weights.append(Path(one))
        elif name and name not in _PLACES and Path(path).suffix in _CHECKPOINTS:
            weights.append(Path(path))
            variants[Path(path)] = name
        else:
            words.append(one)
    if not weights:
        raise ConfigError("No checkpoint was given. Give one or more, such as weights/best.pt.")
    return weights, variants, words


def output_folder(out: Path | None, overrides: list[str]) -> tuple[Path, str | None]:
    """Returns the parent and the name of the output folder; None: the dataset's name.

    The same call gives the same folder, so it resumes.

    Raises:
        ConfigError: Words other than ``project=`` and ``name=``, or one of them with ``--out``.
    """
    places = parse_overrides(overrides, dict.fromkeys(_PLACES, Kind.TEXT))
    for key in places:
        if key not in _PLACES:
            raise ConfigError(f"'{key}' cannot be set here.{did_you_mean(key, _PLACES)} See --help.")
        check_folder_name(key, places[key])
    if out is None:
        return Path(places.get("project", PROJECT)), places.get("name")
    if places:
        raise ConfigError(f"--out {out} cannot be combined with {overrides[0]}. Remove one of them.")
    return out.parent, out.name
