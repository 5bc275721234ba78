"""Tables and the figure of a noise report (``noise.json``): weight noise, and what it does to the loss."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qreg_yolo.analysis.formats import EMPTY, to_text
from qreg_yolo.analysis.gradients import gradient_table
from qreg_yolo.analysis.plots.noise import draw_noise, row_name
from qreg_yolo.analysis.plots.style import save
from qreg_yolo.analysis.tables import Table
from qreg_yolo.io import files

REPORT, FIGURE = "noise.json", "noise.png"
Report = Mapping[str, Any]
"""Plain values, as `qreg_yolo.noise.study.report` gives them."""


def publish(report: Report, folder: Path, against: Report | None = None) -> str:
    """Writes ``noise.json`` and ``noise.png`` into a folder and returns the tables; each file atomically.

    Args:
        report: The report.
        folder: An existing folder, or one that can be made.
        against: Another network's report: the table of both networks' gradients on the same images comes last.

    Raises:
        OSError: The folder cannot be written.
    """
    files.write_text(folder / REPORT, json.dumps(report, indent=2, allow_nan=False) + "\n")
    save(draw_noise(report)[0], folder / FIGURE)
    shown = tables(report) + ([gradient_table(report, against)] if against is not None else [])
    return "\n\n".join(map(to_text, shown))


def tables(report: Report) -> list[Table]:
    """Returns the table of the weight noise; where they were measured, one of the gradients and one per loss."""
    losses = list(dict.fromkeys(name for row in report["rows"] for name in row["losses"]))
    gradients = [_gradient_table(report)] if any(row["gradient_norm"] for row in report["rows"]) else []
    return [_noise_table(report), *gradients, *(_loss_table(report, loss) for loss in losses)]


def _noise_table(report: Report) -> Table:
    header = (
        "weights", "bits", "sigma^2", "s^2/12", "of clipped", "clipped", "sigma^2/Var w", "kurtosis", "SQNR dB",
        "entropy",
    )  # fmt: skip
    rows = [
        (
            row_name(row),
            str(row["bits"]),
            *(_number(row[key]) for key in ("sigma2", "sigma2_uniform", "sigma2_clipped")),
            f"{100 * row['clipped']:.2f}%",
            _number(row["ratio"]),
            _number(row["kurtosis"], ".2f"),
            _number(row["sqnr_db"], ".1f"),
            _number(row["entropy"], ".2f"),
        )
        for row in report["rows"]
    ]
    notes = (
        "All quantized layers together, every weight alike. s^2/12: over the weights that are not clipped.",
        "Kurtosis: normal 3, uniform 1.8. Entropy of the codes in bits.",
        "lsq, lsq+: delta = w_q - w. pact, dorefa: delta = w_q - tanh(w)/max|tanh(w)|, whose levels span [-1, 1].",
    )
    return Table(f"Weight noise: {report['weights']} ({report['label']})", header, tuple(rows), notes)


def _gradient_table(report: Report) -> Table:
    parts = ("gradient_norm", "relative_norm", "penalty")
    rows = [(row_name(row), str(row["bits"]), *(_interval(row[part]) for part in parts)) for row in report["rows"]]
    notes = (
        f"{_sample(report)} +-: 95 % interval over the images.",
        "relative: sum of Var(w_l) ||dy/dw_l||_F^2; the scale of a layer before BatchNorm does not change it.",
        "penalty: sum of sigma_l^2 ||dy/dw_l||_F^2 over the layers l, sigma_l^2 in the unit of the network's weights.",
    )
    return Table("Gradients at w_q", ("weights", "bits", "||dy/dw||_F^2", "relative", "penalty"), tuple(rows), notes)


def _loss_table(report: Report, loss: str) -> Table:
    parts = ("predicted", "hessian", "shift", "gaussian", "remainder", "uniform", "quantization")
    header = (
        "weights", "bits", "without", "predicted", "Hessian", "shift", "Gaussian", "remainder", "uniform",
        "quantization",
    )  # fmt: skip
    rows = [
        (
            row_name(row),
            str(row["bits"]),
            _number(row["losses"][loss]["loss"]),
            *(_interval(row["losses"][loss][part]) for part in parts),
        )
        for row in report["rows"]
        if row["losses"]
    ]
    notes = (
        f"{_sample(report)} {report['draws']} draws with both signs, seed {report['seed']}; without: the loss itself.",
        "predicted: the theorem's penalty (Gauss-Newton). Hessian: the term that it drops, by the second derivative.",
        "shift: that term for noise of this size, kinks included. remainder: Gaussian - predicted - shift.",
        "Gaussian, uniform: measured under noise of each layer's variance; quantization: under the error itself.",
        "+-: 95 % interval, of the quantization error over the sample, else over the draws.",
        *(
            [f"{EMPTY}: no finite number in one of the draws or images."]
            if any(EMPTY in cells for cells in rows)
            else []
        ),
    )
    return Table(f"Rise of the loss under weight noise: {loss}", header, tuple(rows), notes)


def _sample(report: Report) -> str:
    return f"{report['n_images']} images of {report['data']}/{report['split']}."


def _number(value: float | None, spec: str = ".3g") -> str:
    return EMPTY if value is None else format(value, spec)


def _interval(found: Mapping[str, float | None]) -> str:
    """Returns a mean and how far its interval, which is symmetric, reaches."""
    value, high = found["value"], found["hi"]
    return _number(value) if value is None or high is None else f"{value:.3g} +- {high - value:.2g}"
