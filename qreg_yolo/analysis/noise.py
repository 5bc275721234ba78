"""Tables and the figure of a noise report (``noise.json``): weight noise, and what it does to the loss."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qreg_yolo import files
from qreg_yolo.analysis.formats import EMPTY, to_text
from qreg_yolo.analysis.plots.noise import draw_noise, row_name
from qreg_yolo.analysis.plots.style import save
from qreg_yolo.analysis.tables import Table

REPORT, FIGURE = "noise.json", "noise.png"
Report = Mapping[str, Any]
"""Plain values, as `qreg_yolo.quant.noise_study.report` gives them."""


def publish(report: Report, folder: Path) -> str:
    """Writes ``noise.json`` and ``noise.png`` into a folder and returns the tables; each file atomically.

    Raises:
        OSError: The folder cannot be written.
    """
    files.write_text(folder / REPORT, json.dumps(report, indent=2, allow_nan=False) + "\n")
    save(draw_noise(report)[0], folder / FIGURE)
    return "\n\n".join(to_text(table) for table in tables(report))


def tables(report: Report) -> list[Table]:
    """Returns the table of the weight noise, and one per loss that was measured."""
    rows: Sequence[Report] = report["rows"]
    losses = list(dict.fromkeys(name for row in rows for name in row["losses"]))
    return [_noise_table(report), *(_loss_table(report, loss) for loss in losses)]


def _noise_table(report: Report) -> Table:
    header = (
        "weights", "bits", "sigma^2", "s^2/12", "of clipped", "clipped", "sigma^2/Var w", "kurtosis", "SQNR dB",
        "entropy",
    )  # fmt: skip
    rows = [
        (
            row_name(row), str(row["bits"]), *(_number(row[key]) for key in ("sigma2", "sigma2_uniform", "sigma2_clipped")),
            f"{100 * row['clipped']:.2f}%", _number(row["ratio"]), _number(row["kurtosis"], ".2f"),
            _number(row["sqnr_db"], ".1f"), _number(row["entropy"], ".2f"),
        )  # fmt: skip
        for row in report["rows"]
    ]
    notes = (
        "All quantized layers together, every weight alike. s^2/12: the uniform model, over the weights that are not "
        "clipped. Kurtosis: normal 3, uniform 1.8. Entropy of the codes in bits.",
        "lsq, lsq+: delta = w_q - w. pact, dorefa: delta = w_q - tanh(w)/max|tanh(w)|, whose levels span [-1, 1].",
    )
    return Table(f"Weight noise: {report['weights']} ({report['label']})", header, tuple(rows), notes)


def _loss_table(report: Report, loss: str) -> Table:
    parts = ("predicted", "hessian", "gaussian", "uniform", "quantization")
    header = (
        "weights", "bits", "||dy/dw||^2 at w_q", "penalty at w_q", "loss", "predicted", "+ Hessian", "Gaussian", "uniform",
        "quantization",
    )  # fmt: skip
    rows = []
    for row in report["rows"]:
        found = row["losses"][loss]
        own = (_interval(row["gradient_norm"]), _interval(row["penalty"]), _number(found["loss"]))
        rows.append((row_name(row), str(row["bits"]), *own, *(_interval(found[part]) for part in parts)))
    notes = (
        f"{report['n_images']} images of {report['data']}/{report['split']}, {report['draws']} draws with both signs, "
        f"seed {report['seed']}. [a, b]: 95 % interval; over the images for the first two and the last, over the draws "
        "for the others.",
        "predicted: the theorem's penalty (Gauss-Newton); + Hessian: the term that it drops. Measured: the loss under "
        "Gaussian and uniform noise of each layer's variance, and under the quantization error itself, less the loss "
        "without.",
        "penalty at w_q: sum of sigma_l^2 ||dy/dw_l||^2, in the unit of a squared error of the outputs.",
    )
    return Table(f"Loss under weight noise: {loss}", header, tuple(rows), notes)


def _number(value: float | None, spec: str = ".3g") -> str:
    return EMPTY if value is None else format(value, spec)


def _interval(found: Mapping[str, float | None] | None) -> str:
    if found is None:
        return EMPTY
    ends = "" if found["lo"] is None else f" [{_number(found['lo'])}, {_number(found['hi'])}]"
    return _number(found["value"]) + ends
