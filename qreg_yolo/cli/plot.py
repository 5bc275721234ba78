"""``qreg-yolo plot``: figures from records and from training curves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qreg_yolo.cli.comparing import on_records

if TYPE_CHECKING:
    from qreg_yolo.analysis.report import Request

HEATMAP_EXAMPLES = """\b
Examples:
  qreg-yolo plot heatmap records.csv --out heatmap.pdf
  qreg-yolo plot heatmap records.csv --severities 3 --palette orange-blue --out heatmap.png"""
SEVERITY_EXAMPLES = """\b
Examples:
  qreg-yolo plot severity records.csv --out severity.pdf
  qreg-yolo plot severity records.csv --corruption fog --out fog.png"""
CURVES_EXAMPLES = """\b
Examples:
  qreg-yolo plot curves runs/yolov5n-fp32-s0 runs/yolov5n-lsq-w4a4-s0 --out loss.pdf
  qreg-yolo plot curves a b --column val/obj_loss --x train/obj_loss --out paths.pdf
  qreg-yolo plot curves fp32=a/results.csv fp32=b/results.csv 4-bit=c/results.csv --out loss.png"""
LEGEND_EXAMPLES = """\b
Examples:
  qreg-yolo plot legend --out legend.pdf
  qreg-yolo plot legend --layout layout.yaml --out legend.png"""

Out = Annotated[Path, typer.Option(help="Figure to write: .png, .svg or .pdf.")]
Layout = Annotated[Path | None, typer.Option(help="YAML: rows of condition names. [default: 4 x 5, clean first]")]

app = typer.Typer(
    help="Draw heatmaps, curves and their legend.", no_args_is_help=True, rich_markup_mode=None, add_completion=False
)


@app.callback()
def _plot() -> None:
    """Draw heatmaps, curves and their legend."""


@app.command("heatmap", epilog=HEATMAP_EXAMPLES, short_help="Heatmaps of 20 conditions: quantized - fp32.")
@on_records
def heatmap(
    asked: Request,
    out: Out,
    layout: Layout = None,
    palette: Annotated[str, typer.Option(help="red-green | orange-blue (colour-blind safe).")] = "red-green",
) -> None:
    """Draw the effect of quantization under the 20 conditions: one heatmap, or a grid of methods by bits."""
    from qreg_yolo.analysis import report

    print(report.heatmap(asked, out, layout=layout, palette=palette))


@app.command("severity", epilog=SEVERITY_EXAMPLES, short_help="Accuracy against severity, per model.")
@on_records
def severity(
    asked: Request,
    out: Out,
    corruption: Annotated[str | None, typer.Option(help="One of the 19. [default: their mean]")] = None,
) -> None:
    """Draw the metric of each model and its baseline against the severity."""
    from qreg_yolo.analysis import report

    print(report.severity_curves(asked, out, corruption=corruption))


@app.command("curves", epilog=CURVES_EXAMPLES, short_help="Training curves from results.csv.")
def curves(
    sources: Annotated[list[str], typer.Argument(help="results.csv or its folder, PATH or LABEL=PATH.")],
    out: Out,
    column: Annotated[str, typer.Option(help="Any column of the files; val/loss: a detector's sum.")] = "val/box_loss",
    x: Annotated[str, typer.Option("--x", help="epoch, or another column, such as train/box_loss.")] = "epoch",
    smoothing: Annotated[float, typer.Option(help="Weight of the past, 0 to below 1; 0: off.")] = 0.0,
    format_: Annotated[str, typer.Option("--format", help="Table: text | markdown | csv | latex.")] = "text",
) -> None:
    """Draw one column of training runs over the epochs; runs of one label as mean and standard deviation.

    For a validation loss, also print the overfitting gap: last minus best, validation against training. With
    --x train/..., compare networks at equal training loss, each with the first.
    """
    from qreg_yolo.analysis import report

    print(report.loss_curves(sources, out, column=column, x=x, smoothing=smoothing, format_=format_))


@app.command("legend", epilog=LEGEND_EXAMPLES, short_help="The places of the conditions in a heatmap.")
def legend(out: Out, layout: Layout = None) -> None:
    """Draw the legend of the heatmaps: the place of each condition."""
    from qreg_yolo.analysis import report

    print(report.legend(out, layout))
