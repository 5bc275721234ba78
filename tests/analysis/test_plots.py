"""Figures: what stands in them, that nothing leaks, and that missing is never 0."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from qreg_yolo.analysis import report
from qreg_yolo.analysis.curves import Curve, read_curves, smoothed
from qreg_yolo.analysis.plots import (
    PALETTES,
    draw_grid,
    draw_heatmap,
    draw_legend,
    draw_loss_curves,
    draw_paths,
    draw_severity_curves,
    save,
)
from qreg_yolo.analysis.plots.curves import aligned
from qreg_yolo.analysis.table import Estimate
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.metrics.conditions import CONDITIONS
from tests.analysis.synthetic_records import run_records, write

HEATMAP = {name: Estimate(number - 9.5, lo=number - 11.5, hi=number - 7.5) for number, name in enumerate(CONDITIONS)}


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def rectangles(ax: Axes) -> list[Rectangle]:
    return [patch for patch in ax.patches if isinstance(patch, Rectangle)]


def test_a_square_shows_every_value_name_and_open_sign() -> None:
    figure, ax = draw_heatmap(HEATMAP)
    assert texts(ax)[:4] == ["−9.5", "clean", "−8.5", "gaussian\nnoise"]
    assert len(texts(ax)) == 40
    assert len(ax.lines) == 4, "0 lies within 2 of -1.5, -0.5, 0.5 and 1.5"
    assert ax.get_xlabel() == "○ 95 % interval contains 0"
    assert len(figure.axes) == 2, "the heatmap and its scale"


def test_missing_conditions_are_hatched_without_a_number_and_said() -> None:
    heatmap = {**HEATMAP, "fog": Estimate(math.nan)}
    del heatmap["snow"]
    _, ax = draw_heatmap(heatmap)
    assert len(texts(ax)) == 38
    hatched = [patch for patch in rectangles(ax) if patch.get_hatch()]
    assert len(hatched) == 2
    assert all(patch.get_facecolor() == to_rgba("white") for patch in hatched)
    assert "hatched: not measured" in ax.get_xlabel()


def test_the_scale_of_a_single_low_row_says_all_it_has_to() -> None:
    figure, _ = draw_grid(
        {("lsq", f"{bits}-bit"): HEATMAP for bits in (8, 4, 2)}, label="map50_95\nquantized − fp32 [points]"
    )
    figure.draw_without_rendering()
    words = figure.axes[-1].yaxis.label.get_window_extent()
    assert figure.bbox.y0 <= words.y0 < words.y1 <= figure.bbox.y1


def test_a_grid_has_one_symmetric_scale() -> None:
    small = {"clean": Estimate(-1.0), "fog": Estimate(2.0)}
    figure, axes = draw_grid({("lsq", "8-bit"): small, ("lsq", "4-bit"): HEATMAP, ("pact", "8-bit"): {}})
    assert axes.shape == (2, 2)
    assert [ax.get_title() for ax in axes[0]] == ["8-bit", "4-bit"]
    assert [row[0].get_ylabel() for row in axes] == ["lsq", "pact"]
    assert len(figure.axes) == 5, "four squares, one scale"
    assert figure.axes[-1].get_ylim() == (-9.5, 9.5)
    expected = PALETTES["red-green"]((2.0 + 9.5) / 19)
    assert rectangles(axes[0, 0])[CONDITIONS.index("fog")].get_facecolor() == pytest.approx(expected)


@pytest.mark.parametrize("palette", PALETTES)
def test_palettes_run_from_worse_to_better_and_are_neutral_at_0(palette: str) -> None:
    low, middle, high = (PALETTES[palette](x) for x in (0.0, 0.5, 1.0))
    assert min(middle[:3]) > 0.95
    worse, better = (0, 1) if palette == "red-green" else (0, 2)
    assert np.argmax(low[:3]) == worse
    assert np.argmax(high[:3]) == better
    assert sum(low[:3]) == pytest.approx(sum(high[:3]), abs=0.4), "equally far from 0, about equally dark"


def test_a_layout_of_ones_own_and_nothing_measured() -> None:
    _, ax = draw_heatmap({}, layout=(("clean", "fog"),))
    assert texts(ax) == ["clean", "fog"]


def test_the_legend_with_and_without_pictures() -> None:
    _, ax = draw_legend()
    assert texts(ax)[:2] == ["clean", "gaussian\nnoise"]
    picture = np.zeros((50, 90, 3), np.uint8)
    _, ax = draw_legend(thumbnails={"clean": picture, "fog": picture.transpose(1, 0, 2)})
    assert len(ax.images) == 2
    assert ax.get_xlim() == (0, 5)


def test_loss_curves_have_a_band_for_seeds_and_no_smoothing() -> None:
    epochs = np.arange(1.0, 4.0)
    seeds = [Curve(epochs, np.array([3.0, 2.0, 1.0])), Curve(epochs[:2], np.array([5.0, 4.0]))]
    _, ax = draw_loss_curves({"fp32": seeds, "lsq": [Curve(epochs, np.array([1.0, 9.0, 1.0]))]})
    assert ax.lines[0].get_xydata().tolist() == [[1, 4], [2, 3]]  # type: ignore[union-attr]
    assert ax.lines[1].get_ydata().tolist() == [1, 9, 1]  # type: ignore[union-attr]
    assert len(ax.collections) == 1
    ends = ax.collections[0].get_datalim(ax.transData)
    assert (ends.y0, ends.y1) == pytest.approx((3 - math.sqrt(2), 4 + math.sqrt(2)))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["fp32 (n = 2)", "lsq"]  # type: ignore[union-attr]


def test_paths_show_each_run_where_it_fits_its_training_set() -> None:
    epochs = np.arange(1.0, 4.0)
    train = {"fp32": [Curve(epochs, np.array([3.0, 2, 1])), Curve(epochs, np.array([3.0, 1, 0.5]))]}
    val = {"fp32": [Curve(epochs[1:], np.array([5.0, 6])), Curve(epochs, np.array([7.0, 8, 9]))]}
    _, ax = draw_paths(train, val, x_label="train/obj_loss", label="val/obj_loss")
    lines = [line.get_xydata().tolist() for line in ax.lines]  # type: ignore[union-attr]
    assert lines == [[[2, 5], [1, 6]], [[1, 6]], [[3, 7], [1, 8], [0.5, 9]], [[0.5, 9]]]
    assert ax.xaxis_inverted(), "training goes to the right"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["fp32"]  # type: ignore[union-attr]
    assert not draw_paths(val, train, x_label="metrics/mAP50(B)")[1].xaxis_inverted()


def test_epochs_are_aligned_by_their_number() -> None:
    first = Curve(np.array([1.0, 2, 3]), np.array([1.0, 2, 3]))
    later = Curve(np.array([2.0, 3, 4]), np.array([20.0, 30, 40]))
    epochs, values = aligned([first, later])
    assert epochs.tolist() == [2, 3]
    assert values.tolist() == [[2, 3], [20, 30]]


def test_smoothing() -> None:
    values = np.array([4.0, 1.0, 7.0])
    assert smoothed(values, 0).tolist() == values.tolist()
    assert smoothed(np.full(9, 5.0), 0.9) == pytest.approx(np.full(9, 5.0))
    assert smoothed(np.array([2.0, np.nan, 4.0]), 0.5) == pytest.approx(
        [2, np.nan, (0.25 * 2 + 0.5 * 4) / 0.75], nan_ok=True
    )
    with pytest.raises(ConfigError, match="smoothing=1"):
        smoothed(values, 1)


def test_severity_curves_leave_out_what_was_not_measured() -> None:
    points = {0: Estimate(60.0), 1: Estimate(50.0, lo=45.0, hi=52.0), 2: Estimate(math.nan)}
    _, ax = draw_severity_curves({"fp32": points})
    assert ax.lines[0].get_xydata().tolist() == [[0, 60], [1, 50]]  # type: ignore[union-attr]
    assert ax.get_title(loc="left") == "bars: 95 % interval over images"
    _, ax = draw_severity_curves({"fp32": {0: Estimate(60.0, sd=1.0, n=3)}})
    assert ax.get_title(loc="left") == "bars: standard deviation over seeds"


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf", "PNG"])
def test_files_by_suffix_the_same_each_time(tmp_path: Path, suffix: str) -> None:
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix.lower()]
    save(draw_heatmap(HEATMAP)[0], tmp_path / f"a.{suffix}")
    assert (tmp_path / f"a.{suffix}").read_bytes().startswith(start)
    assert [file.name for file in tmp_path.iterdir()] == [f"a.{suffix}"]


def test_other_suffixes_and_folders_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'.jpg' is not a format of figures"):
        save(Figure(), tmp_path / "a.jpg")
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        save(Figure(), tmp_path / "nowhere" / "a.png")
    with pytest.raises(ConfigError, match="Did you mean 'red-green'"):
        draw_heatmap(HEATMAP, palette="red-gren")


def test_given_axes_are_drawn_into_and_pyplot_knows_nothing() -> None:
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert draw_heatmap(HEATMAP, left) == (figure, left)
    assert draw_loss_curves({"a": [Curve(np.ones(1), np.ones(1))]}, right) == (figure, right)
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


def test_results_of_runs_that_differ_in_their_seed_go_together(tmp_path: Path) -> None:
    for name in ("net-fp32-s0", "net-fp32-s1", "net-lsq-s0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.csv").write_text("   epoch,  val/box_loss\n 1, 2.5\n 2, nan\n 2, 1.5\n")
    found = read_curves([str(tmp_path / name) for name in ("net-fp32-s0", "net-fp32-s1")], "val/box_loss")
    assert {label: len(curves) for label, curves in found.items()} == {"net-fp32": 2}
    assert found["net-fp32"][0].values.tolist() == [2.5, 1.5]
    named = read_curves([f"4-bit={tmp_path / 'net-lsq-s0' / 'results.csv'}"], "val/box_loss")
    assert list(named) == ["4-bit"]


def test_wide_grids_keep_values_within_their_cells() -> None:
    heatmap = {"clean": Estimate(-9.94), "fog": Estimate(-9.96), "snow": Estimate(23.4)}
    figure, axes = draw_grid({("lsq", f"{bits}-bit"): heatmap for bits in (8, 6, 5, 4, 3, 2)})
    assert sorted(texts(axes[0, 0])) == ["+23", "−10", "−9.9"]
    figure.draw_without_rendering()
    cell = axes[0, 0].get_window_extent().width / 5
    assert all(text.get_window_extent().width < cell for text in axes[0, 0].texts)
    assert min(text.get_fontsize() for text in axes[0, 0].texts) >= 4.5


def test_a_long_legend_stands_beside_the_curves() -> None:
    curve = Curve(np.arange(1.0, 4.0), np.array([3.0, 2.0, 1.0]))
    for lines in (4, 5):
        figure, ax = draw_loss_curves({f"run {number}": [curve] for number in range(lines)})
        figure.draw_without_rendering()
        legend = ax.get_legend()
        assert legend is not None
        box, plot = legend.get_window_extent(), ax.get_window_extent()
        assert (box.x0 >= plot.x1) == (lines == 5)
        assert box.x1 <= figure.bbox.x1


def test_a_grid_can_have_a_title() -> None:
    squares = {("lsq", "8-bit"): HEATMAP, ("lsq", "4-bit"): HEATMAP}
    plain, titled = draw_grid(squares)[0], draw_grid(squares, title="yolov5n")[0]
    assert titled.get_suptitle() == "yolov5n"
    assert titled.get_size_inches()[1] > plain.get_size_inches()[1]


def test_weights_alone_have_a_row_of_their_own_and_a_single_model_is_the_title(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[set[tuple[str, str]], str]] = []

    def spy(squares: dict[tuple[str, str], Any], **options: Any) -> Any:
        drawn.append((set(squares), options["title"]))
        return draw_grid(squares, **options)

    monkeypatch.setattr(report, "draw_grid", spy)
    rows = [*run_records(), *run_records(0.4, bits=8), *run_records(0.4, bits=4, act_bits=8, run_id="w4a8")]
    rows += run_records(0.4, bits=8, method="dorefa", act_bits=32, run_id="alone")
    path = write(tmp_path / "records.csv", rows)
    request = report.Request(records=path, intervals=False)
    report.heatmap(request, tmp_path / "a.png")
    assert drawn.pop() == (
        {("lsq", "8-bit"), ("lsq", "w4a8"), ("dorefa\nweights only", "8-bit")}, "yolov5n",
    )  # fmt: skip
    other = {"model": "yolov5s.yaml"}
    write(path, [*run_records(run_id="s-fp32", **other), *run_records(0.4, bits=8, run_id="s-8", **other)])
    report.heatmap(request, tmp_path / "b.png")
    keys, title = drawn.pop()
    assert ("yolov5s\nlsq", "8-bit") in keys
    assert ("yolov5n\ndorefa\nweights only", "8-bit") in keys
    assert title == ""


def test_names_of_runs_are_shown_as_they_are(tmp_path: Path) -> None:
    """A label with ``=``, with what matplotlib reads as a formula, or with the sign of a hidden entry."""
    for folder in ("run=1 $a$", "_run"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "results.csv").write_text("epoch,val/box_loss\n1,1\n2,0.5\n")
    sources = [str(tmp_path / "run=1 $a$"), f"lr=0.1={tmp_path / '_run'}", f"plain={tmp_path / 'run=1 $a$'}"]
    curves = read_curves([*sources, str(tmp_path / "_run")], "val/box_loss")
    assert list(curves) == ["run=1 $a$", "lr=0.1", "plain", "_run"]
    figure, ax = draw_loss_curves(curves)
    figure.canvas.draw()
    legend = ax.get_legend()
    assert legend is not None
    shown = [text.get_text().replace("\u200b", "").replace("\\$", "$") for text in legend.get_texts()]
    assert shown == list(curves)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_curves(["lr=nowhere"], "val/box_loss")


def test_a_curve_of_one_epoch_is_a_dot() -> None:
    _, ax = draw_loss_curves({"run": [Curve(np.array([1, 2]), np.array([np.nan, 3.0]))]})
    assert ax.lines[0].get_marker() == "o"
