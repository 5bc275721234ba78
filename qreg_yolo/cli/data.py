"""``qreg-yolo data``: conversion of datasets to the layout of training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qreg_yolo.cli.process import bar, prepare_ultralytics

EXAMPLES = """\b
Examples:
  qreg-yolo data voc --devkit VOCdevkit --out VOC
  qreg-yolo data voc --devkit VOCdevkit --out VOC --download
  qreg-yolo data voc --devkit VOCdevkit --out VOC-all --keep-difficult"""

app = typer.Typer(
    help="Convert a dataset to Ultralytics' layout.", no_args_is_help=True, rich_markup_mode=None, add_completion=False
)


@app.callback()
def _data() -> None:
    """Convert a dataset to Ultralytics' layout."""


@app.command("voc", epilog=EXAMPLES, short_help="Convert an official PASCAL VOCdevkit.")
def voc(
    devkit: Annotated[Path, typer.Option(help="Folder with VOC2007, VOC2012 or both.")],
    out: Annotated[Path, typer.Option(help="Folder to create, with voc.yaml for --data.")],
    keep_difficult: Annotated[
        bool, typer.Option("--keep-difficult", help="Keep objects marked difficult (YOLOv5 drops them).")
    ] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out objects and images that cannot be used.")
    ] = False,
    download: Annotated[
        bool, typer.Option("--download", help="Download missing parts of the devkit (2.9 GB in all).")
    ] = False,
) -> None:
    """Convert an official PASCAL VOCdevkit (2007, 2012 or both). Its images are linked, not copied."""
    prepare_ultralytics(online=download, checkpoints=False)
    from qreg_yolo.datasets.voc.convert import convert_voc

    if download:
        from qreg_yolo.datasets.voc.download import fetch_devkit

        fetch_devkit(devkit, progress=bar)
    print(convert_voc(devkit, out, keep_difficult=keep_difficult, skip_bad=skip_bad, progress=bar).table)
