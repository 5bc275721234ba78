"""The tables and the figure of a noise report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from qreg_yolo.analysis.noise import FIGURE, REPORT, publish, tables
from qreg_yolo.analysis.plots.noise import (
    draw_layers,
    draw_noise,
    draw_noise_against_bits,
    draw_predicted_against_measured,
    row_name,
)


def interval(value: float) -> dict[str, float]:
    return {"value": value, "lo": value - 0.5 * abs(value), "hi": value + 0.5 * abs(value)}


def noise(bits: int, ratio: float) -> dict[str, Any]:
    sigma2 = ratio * 0.01
    return {
        "weights": 100, "bits": bits, "step": 0.1, "sigma2": sigma2, "sigma2_uniform": 0.9 * sigma2,
        "sigma2_clipped": 0.1 * sigma2, "clipped": 0.05, "variance": 0.01, "signal": 0.01, "error": sigma2,
        "kurtosis": 1.8 if ratio else None, "entropy": 1.5 if ratio else None, "codes_used": 4, "ratio": ratio,
        "sqnr_db": 12.0 if ratio else None,
    }  # fmt: skip


def row(method: str, bits: int, ratio: float, *, trained: bool = False, measured: float | None = 2.0) -> dict[str, Any]:
    parts = ("predicted", "hessian", "shift", "gaussian", "remainder", "uniform", "quantization")
    with_losses = ratio > 0 and measured is not None
    increase = {"loss": 1.0, **{part: interval(ratio) for part in parts}, "gaussian": interval((measured or 0) * ratio)}
    layers = [{"name": name, **noise(bits, ratio), "gradient_norm": 3.0} for name in ("conv", "fc")] if ratio else []
    return {
        "method": method, "shared_with": [], "trained": trained, **noise(bits, ratio), "layers": layers,
        "gradient_norm": interval(7.0) if measured is not None else None,
        "penalty": interval(0.7) if measured is not None else None,
        "relative_norm": interval(0.5) if measured is not None else None,
        "losses": {"mse": increase} if with_losses else {},
    }  # fmt: skip


def report(*rows: dict[str, Any]) -> dict[str, Any]:
    about = {"weights": "w.pt", "label": "fp32", "data": "demo", "split": "train", "n_images": 9, "draws": 4, "seed": 0}
    return {**about, "rows": list(rows)}


REPORT_OF_FOUR = report(
    row("lsq", 2, 0.2, trained=True), row("lsq", 2, 0.25), row("lsq", 4, 0.02), row("lsq", 32, 0.0),
    {**row("pact", 4, 0.03), "shared_with": ["dorefa"]},
)  # fmt: skip


def test_names_of_rows() -> None:
    assert [row_name(one) for one in REPORT_OF_FOUR["rows"]] == [
        "lsq, as trained", "lsq", "lsq", "full precision", "pact = dorefa",
    ]  # fmt: skip


def test_tables_have_every_row_and_a_dash_where_there_is_nothing() -> None:
    of_noise, of_gradients, of_loss = tables(REPORT_OF_FOUR)
    assert [row[:4] for row in of_noise.rows][:2] == [
        ("lsq, as trained", "2", "0.002", "0.0018"), ("lsq", "2", "0.0025", "0.00225"),
    ]  # fmt: skip
    assert of_noise.rows[3][-4:] == ("0", "-", "-", "-")
    assert of_gradients.rows[0] == ("lsq, as trained", "2", "7 +- 3.5", "0.5 +- 0.25", "0.7 +- 0.35")
    assert len(of_loss.rows) == 4, "full precision has no noise, so no rise"
    assert of_loss.rows[2][3:] == (
        "0.02 +- 0.01", "0.02 +- 0.01", "0.02 +- 0.01", "0.04 +- 0.02", *["0.02 +- 0.01"] * 3,
    )  # fmt: skip
    assert len(tables(report(row("lsq", 4, 0.1, measured=None)))) == 1
    assert len(tables(report(row("lsq", 32, 0.0)))) == 2, "full precision has gradients, but no rise"


def test_a_rise_that_is_not_finite_is_a_dash_with_its_reason(tmp_path: Path) -> None:
    broken = row("lsq", 2, 0.2)
    broken["losses"]["mse"]["gaussian"] = {"value": None, "lo": None, "hi": None}
    text = publish(report(broken), tmp_path)
    assert tables(report(broken))[2].rows[0][6] == "-"
    assert "-: no finite number" in text
    assert not any("-: no finite" in note for note in tables(report(row("lsq", 2, 0.2)))[2].notes)


def test_a_report_is_written_whole(tmp_path: Path) -> None:
    text = publish(REPORT_OF_FOUR, tmp_path)
    assert json.loads((tmp_path / REPORT).read_text()) == REPORT_OF_FOUR
    assert (tmp_path / FIGURE).read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([REPORT, FIGURE])
    assert "Rise of the loss under weight noise: mse" in text
    assert all(len(line) <= 125 for table in tables(REPORT_OF_FOUR) for line in table.notes)


def test_noise_against_bits_has_a_line_per_method_and_one_of_the_model() -> None:
    _, ax = draw_noise_against_bits(REPORT_OF_FOUR)
    assert ax.lines[0].get_xydata().tolist() == [[2, 0.25], [4, 0.02]]  # type: ignore[union-attr]
    assert ax.lines[1].get_ydata().tolist() == pytest.approx([0.225, 0.018])  # type: ignore[union-attr]
    words = [text.get_text() for text in ax.get_legend().get_texts()]  # type: ignore[union-attr]
    assert words == ["lsq", "pact = dorefa", "as trained", "uniform model, s²/12"]
    assert ax.get_yscale() == "log"
    _, ax = draw_noise_against_bits(report(row("lsq", 2, 0.2, trained=True), row("lsq", 32, 0.0)))
    assert ax.get_xlim() == (1.5, 2.5), "one width has room on both sides"
    assert [tick for tick in ax.get_xticks() if 1.5 <= tick <= 2.5] == [2]


def test_predicted_against_measured_counts_what_it_cannot_draw() -> None:
    _, ax = draw_predicted_against_measured(report(row("lsq", 4, 0.1), row("lsq", 8, 0.01, measured=-1.0)))
    assert ax.get_title(loc="left") == "1 not above 0 or not finite, left out"
    assert len(ax.containers) == 3, "two of Gaussian noise and quantization error, one of the error alone"
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    broken = row("lsq", 2, 0.2)
    broken["losses"]["mse"]["quantization"] = {"value": None, "lo": None, "hi": None}
    assert draw_predicted_against_measured(report(broken))[1].get_title(loc="left").startswith("1 not above")
    _, ax = draw_predicted_against_measured(report())
    assert not ax.containers


def test_layers_are_drawn_at_four_bits_or_the_lowest_width() -> None:
    _, ax = draw_layers(REPORT_OF_FOUR)
    assert ax.get_ylabel() == "noise at 4 bits, σ² / Var w"
    assert [text.get_text() for text in ax.get_xticklabels()] == ["conv", "fc"]
    heights = [bar.get_height() for bar in ax.patches]
    assert heights == pytest.approx([0.02, 0.02, 0.002, 0.002, 0.03, 0.03, 0.003, 0.003])
    _, ax = draw_layers(report(row("lsq", 8, 0.1), row("lsq", 2, 0.2)))
    assert ax.get_ylabel() == "noise at 2 bits, σ² / Var w"
    _, ax = draw_layers(report(row("lsq", 2, 0.2, trained=True), row("lsq", 32, 0.0)))
    assert ax.get_ylabel() == "noise at 2 bits, σ² / Var w", "without a sweep the network's own"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["lsq, as trained"]  # type: ignore[union-attr]
    _, ax = draw_layers(report(row("lsq", 32, 0.0)))
    assert [text.get_text() for text in ax.texts] == ["no layer is quantized"]


def test_the_figure_has_the_loss_where_it_was_measured() -> None:
    assert len(draw_noise(REPORT_OF_FOUR)[1]) == 3
    assert len(draw_noise(report(row("lsq", 4, 0.1, measured=None)))[1]) == 2


def test_given_axes_are_drawn_into() -> None:
    figure = Figure()
    axes = figure.subplots(1, 3)
    for draw, ax in zip((draw_noise_against_bits, draw_predicted_against_measured, draw_layers), axes, strict=True):
        assert draw(REPORT_OF_FOUR, ax) == (figure, ax)
