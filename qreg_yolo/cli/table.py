"""``qreg-yolo table``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qreg_yolo.cli import comparing

EXAMPLES = """\b
Examples:
  qreg-yolo table records.csv
  qreg-yolo table records.csv --kind robustness --format markdown
  qreg-yolo table records.csv --kind cells --severities 3 --runs '*-best-*' --format latex --out table.tex"""


def table(
    records: comparing.Records,
    kind: Annotated[str, typer.Option(help="table1 | robustness | severity | cells.")] = "table1",
    format_: Annotated[str, typer.Option("--format", help="text | markdown | csv | latex.")] = "text",
    out: Annotated[Path | None, typer.Option(help="Also write it to this file.")] = None,
    metric: comparing.Metric = None,
    severities: comparing.Severities = None,
    runs: comparing.Runs = None,
    baseline: comparing.Baseline = None,
    data: comparing.Data = None,
    split: comparing.Split = None,
    preset: comparing.Preset = None,
    per_image: comparing.PerImage = None,
    no_intervals: comparing.NoIntervals = False,
) -> None:
    """Compare quantized runs with their fp32 baselines: Table 1 with Eq. 5, mPC, rPC, mCE, with intervals."""
    asked = comparing.request(
        records, metric, severities, runs, baseline, data, split, preset, per_image, no_intervals
    )  # fmt: skip
    from qreg_yolo.analysis import report

    print(report.table(asked, kind, format_, out))
