"""Gradient norms of two networks image by image: a quantized network beside its fp32 twin."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qreg_yolo.analysis.formats import EMPTY
from qreg_yolo.analysis.plots.noise import row_name
from qreg_yolo.analysis.tables import Table
from qreg_yolo.errors import MissingFileError
from qreg_yolo.metrics.errors import AnalysisError
from qreg_yolo.noise.intervals import mean_interval
from qreg_yolo.quant.spec import FLOAT_BITS

Report = Mapping[str, Any]
"""Plain values, as `qreg_yolo.noise.study.report` gives them."""
NORMS = {"gradient_norm": "||dy/dw||_F^2", "relative_norm": "relative"}
"""Key of a norm in a report -> what tables call it."""


def read_report(path: Path) -> Report:
    """Returns a ``noise.json``, given by its own path or by its folder's.

    Raises:
        FileNotFoundError: No such file.
        AnalysisError: It is no such report.
    """
    file = path / "noise.json" if path.is_dir() else path
    if not file.is_file():
        raise MissingFileError(f"'{file}' does not exist. Give the noise.json (or its folder) of another checkpoint.")
    try:
        report: Report = json.loads(file.read_text(encoding="utf-8"))
        rows = [(row["bits"], row["trained"], row["of_images"]) for row in report["rows"]]
    except (ValueError, KeyError, TypeError) as error:
        raise AnalysisError(f"'{file}' is no report of 'qreg-yolo noise'. Give its noise.json.") from error
    if not any(trained or bits == FLOAT_BITS for bits, trained, _ in rows):
        raise AnalysisError(f"'{file}' has no row at its network's own weights. Measure it with --bits 32.")
    return report


def compare_gradients(report: Report, other: Report) -> list[dict[str, Any]]:
    """Returns, per row of a report, the ratio of its norms to those of another network at its own weights.

    The ratio is the geometric mean over the images of both networks' norms on the same image; its 95 % interval is
    Student's, over the images, on the logarithm. None: a norm is not finite.

    Raises:
        AnalysisError: They were not measured on the same images, or one without gradients.
    """
    base = own_row(other)
    for name in ("data", "split", "n_images"):
        if report.get(name) != other.get(name):
            raise AnalysisError(
                f"{name} is {report.get(name)} for {report['weights']} and {other.get(name)} for {other['weights']}: "
                "norms are compared on the same images. Measure both with the same --data, --split and --limit."
            )
    return [
        {key: _ratio(row["of_images"].get(key, ()), base["of_images"].get(key, ()), report, other) for key in NORMS}
        for row in report["rows"]
    ]


def own_row(report: Report) -> Mapping[str, Any]:
    """Returns the row at the weights that the network runs with: its trained quantizers, or full precision."""
    rows: list[Mapping[str, Any]] = sorted(report["rows"], key=lambda row: not row["trained"])
    return next(row for row in rows if row["trained"] or row["bits"] == FLOAT_BITS)


def gradient_table(report: Report, other: Report) -> Table:
    """Returns the ratios of `compare_gradients` as a table."""
    rows = [
        (row_name(row), str(row["bits"]), *(_entry(found[key]) for key in NORMS))
        for row, found in zip(report["rows"], compare_gradients(report, other), strict=True)
    ]
    notes = (
        f"{report['n_images']} images of {report['data']}/{report['split']}; geometric mean over them of this "
        f"network's norm over that of {other['weights']} ({row_name(own_row(other))}); [95 % interval over them].",
    )
    return Table(f"Gradients against {other['label']}", ("weights", "bits", *NORMS.values()), tuple(rows), notes)


def _ratio(these: Any, those: Any, report: Report, other: Report) -> dict[str, float | None]:
    if not these or len(these) != len(those):
        without = other if not those else report
        raise AnalysisError(f"{without['weights']} was measured without gradients. Measure it without --no-loss.")
    if None in (*these, *those):
        return dict.fromkeys(("value", "lo", "hi"))
    if min(*these, *those) <= 0:
        raise AnalysisError(
            f"An image has no gradient at all in {report['weights']} or {other['weights']}: there is no ratio to it."
        )
    found = mean_interval([math.log(a / b) for a, b in zip(these, those, strict=True)])
    ends = {"value": found.value, "lo": found.lo, "hi": found.hi}
    return {name: math.exp(end) if math.isfinite(end) else None for name, end in ends.items()}


def _entry(found: Mapping[str, float | None]) -> str:
    if found["value"] is None:
        return EMPTY
    text = f"{found['value']:.3g}"
    return text if found["lo"] is None else f"{text} [{found['lo']:.3g}, {found['hi']:.3g}]"
