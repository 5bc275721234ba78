"""``qreg-yolo corrupt``."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from qreg_yolo.cli import options as shared
from qreg_yolo.cli.process import bar, datasets_dir
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.metrics.conditions import parse_corruptions, parse_severities

EXAMPLES = """\b
Examples:
  qreg-yolo corrupt VOC/voc.yaml VOC-C --severities 3
  qreg-yolo corrupt demo demo-C --corruptions fog,snow --severities 1-5 --limit 20
  qreg-yolo corrupt cifar-10-batches-py CIFAR-10-C
  qreg-yolo corrupt demo sheet.png --sheet"""
ASK_ABOVE = 10e9
"""Writing more bytes than this asks first."""


def corrupt(
    source: Annotated[str, typer.Argument(help="Data YAML, demo, voc, a folder of images, or of CIFAR's pickles.")],
    out: Annotated[Path, typer.Argument(help="Folder to create; with --sheet, the image.")],
    corruptions: shared.Corruptions = "19",
    severities: shared.Severities = "1-5",
    format_: Annotated[str, typer.Option("--format", help="png | webp (both lossless) | jpg.")] = "png",
    quality: Annotated[int | None, typer.Option(help="Quality of jpg, 1 to 100. [default: 95]")] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="imagenet224 | cifar32 | tiny64 | inception299. [default: imagenet224; for CIFAR cifar32]"),
    ] = None,
    seed: shared.CorruptionSeed = 0,
    split: Annotated[str | None, typer.Option(help="train | val | test. [default: test, else val]")] = None,
    limit: shared.Limit = None,
    frost_dir: Annotated[
        Path | None, typer.Option(help="Frost overlays. [default: the installed ones, or drawn]")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; 0: this one. [default: cores, at most 8]")] = None,
    skip_bad: shared.SkipBad = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask above 10 GB.")] = False,
    sheet: Annotated[bool, typer.Option("--sheet", help="Draw a contact sheet of one image instead.")] = False,
) -> None:
    """Write a dataset per corruption and severity, with labels and a data YAML. The same command again resumes."""
    names, levels = parse_corruptions(corruptions), parse_severities(severities)
    from qreg_yolo.datasets.cifar import cifar_in
    from qreg_yolo.datasets.corrupted import cifar, pool, write
    from qreg_yolo.datasets.corrupted import sheet as sheets
    from qreg_yolo.datasets.corrupted.request import Request
    from qreg_yolo.datasets.sources import find_data, read_source

    path = find_data(source)
    is_cifar = cifar_in(path) is not None
    if is_cifar and (split not in (None, "test") or format_ != "png" or quality is not None or sheet):
        raise ConfigError("CIFAR's test images become .npy files: leave --split, --format, --quality and --sheet out.")
    try:
        request = Request(
            out=out, corruptions=names, severities=levels, preset=preset or ("cifar32" if is_cifar else "imagenet224"),
            seed=seed, format=format_, quality=quality, frost_dir=frost_dir, limit=limit, skip_bad=skip_bad,
            workers=pool.default_workers() if workers is None else workers,
        )  # fmt: skip
    except ValueError as error:
        raise ConfigError(str(error)) from error
    try:
        if is_cifar:
            print(cifar.write_cifar(path, request, approve=lambda size: _approve(size, out, yes), progress=bar))
            return
        images = read_source(path, split, datasets_dir=datasets_dir)
        if sheet:
            print(sheets.write_sheet(images, request))
            return
        print(write.write_sets(images, request, approve=lambda size: _approve(size, out, yes), progress=bar).report)
    except KeyboardInterrupt:
        print(f"\nThe same command resumes: finished files stay in '{out}'.", file=sys.stderr)
        raise


def _approve(size: int, out: Path, yes: bool) -> None:
    """Shows the estimated size; asks if it is large."""
    place = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    text = f"About {_bytes(size)} to write into '{out}' ({_bytes(free)} free)."
    print(text, file=sys.stderr)
    if yes or size <= min(ASK_ABOVE, free):
        return
    if not sys.stdin.isatty():
        raise ConfigError(f"{text} Give --yes to write that much without a question.")
    typer.confirm("Go on?", abort=True, err=True)


def _bytes(size: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 1e3:.0f} kB"
