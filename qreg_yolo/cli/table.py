"""``qreg-yolo table``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qreg_yolo.cli.comparing import on_records

if TYPE_CHECKING:
    from qreg_yolo.analysis.report import Request

EXAMPLES = """\b
Examples:
  qreg-yolo table records.csv
  qreg-yolo table records.csv --kind robustness --format markdown
  qreg-yolo table records.csv --kind accuracy --reference 'lsq 4'
  qreg-yolo table records.csv --kind cells --severities 3 --runs '*-best-*' --format latex --out table.tex"""


@on_records
def table(
    asked: Request,
    kind: Annotated[str, typer.Option(help="table1 | robustness | severity | cells | accuracy.")] = "table1",
    reference: Annotated[
        str | None, typer.Option(help="With accuracy: variant to compare with. [default: the fp32 baselines]")
    ] = None,
    format_: Annotated[str, typer.Option("--format", help="text | markdown | csv | latex.")] = "text",
    out: Annotated[Path | None, typer.Option(help="Also write it to this file.")] = None,
) -> None:
    """Compare quantized runs with their fp32 baselines: Table 1 with Eq. 5, mPC, rPC, mCE, accuracy, with intervals."""
    from qreg_yolo.analysis import report

    print(report.table(asked, kind, format_, out, reference))
