"""Tables and the figure of a noise report (``noise.json``): weight noise, and its effect on the loss."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qreg_yolo.analysis.plots.noise import draw_noise, row_name
from qreg_yolo.analysis.plots.style import save
from qreg_yolo.analysis.table import EMPTY, Table, to_text
from qreg_yolo.errors import AnalysisError, MissingFileError
from qreg_yolo.io import files
from qreg_yolo.noise.intervals import mean_interval
from qreg_yolo.quant.spec import FLOAT_BITS

REPORT, FIGURE = "noise.json", "noise.png"
Report = Mapping[str, Any]
"""Plain values, as `qreg_yolo.noise.study.report` gives them."""
NORMS = {"gradient_norm": "||dy/dw||_F^2", "relative_norm": "relative"}
"""Key of a norm in a report -> its name in tables."""


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
    """Returns a mean and the half width of its symmetric interval."""
    value, high = found["value"], found["hi"]
    return _number(value) if value is None or high is None else f"{value:.3g} +- {high - value:.2g}"


def read_report(path: Path) -> Report:
    """Returns a ``noise.json``, given by its own path or by its folder's.

    Raises:
        FileNotFoundError: No such file.
        AnalysisError: It is not such a report.
    """
    file = path / "noise.json" if path.is_dir() else path
    if not file.is_file():
        raise MissingFileError(f"'{file}' does not exist. Give the noise.json (or its folder) of another checkpoint.")
    try:
        report: Report = json.loads(file.read_text(encoding="utf-8"))
        rows = [(row["bits"], row["trained"], row["of_images"]) for row in report["rows"]]
    except (ValueError, KeyError, TypeError) as error:
        raise AnalysisError(f"'{file}' is not a report of 'qreg-yolo noise'. Give its noise.json.") from error
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
