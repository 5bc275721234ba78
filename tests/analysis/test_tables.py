"""Tables from records and per-image files, in every format."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qreg_yolo.analysis import report
from qreg_yolo.analysis.comparison import Comparison, by_seed, compare, estimate
from qreg_yolo.analysis.measurements import pair_with_baselines, read_measurements
from qreg_yolo.analysis.table import FORMATS, Estimate, Table, entry_text, to_csv, to_latex, to_markdown, to_text
from qreg_yolo.analysis.tables import TABLES, by_condition, by_severity, robustness, table1
from qreg_yolo.errors import AnalysisError
from qreg_yolo.metrics import image_statistics
from qreg_yolo.metrics.robustness import error_improvement, map_delta
from tests.analysis.synthetic_records import run_records, write, write_study


def compared(path: Path, per_image: Path | None = None):  # type: ignore[no-untyped-def]
    return compare(pair_with_baselines(read_measurements(path)), per_image, resamples=100)


def test_table_1_by_hand(tmp_path: Path) -> None:
    table = table1(compared(write(tmp_path / "r.csv", run_records(0.6) + run_records(0.5, bits=4))), (3,))
    values = dict(zip(table.header, table.rows[0], strict=True))
    assert [values[name] for name in ("model", "data", "method", "seeds")] == ["yolov5n", "voc", "lsq 4", "1"]
    assert values["fp32 (19)"].value == pytest.approx(45)
    assert values["quantized (19)"].value == pytest.approx(35)
    assert [values[name].value for name in ("delta (19)", "delta (20)")] == pytest.approx([-10, -10])
    assert values["Eq. 5 (19)"].value == pytest.approx(100 * math.log10(55 / 65))
    clean = 100 - (19 * 45 + 60) / 20, 100 - (19 * 35 + 50) / 20
    assert values["Eq. 5 (20)"].value == pytest.approx(100 * math.log10(clean[0] / clean[1]))


def test_robustness_and_severities_by_hand(tmp_path: Path) -> None:
    rows = run_records(0.6, severities=(1, 3)) + run_records(0.5, bits=4, severities=(1, 3))
    both = compared(write(tmp_path / "r.csv", rows))
    fp32, lsq = (dict(zip(robustness(both, (1, 3)).header, row, strict=True)) for row in robustness(both, (1, 3)).rows)
    assert (fp32["P"].value, lsq["P"].value) == pytest.approx((60, 50))
    assert (fp32["mPC (15)"].value, lsq["mPC (19)"].value) == pytest.approx((50, 40))
    assert (fp32["rPC (15)"].value, lsq["rPC (19)"].value) == pytest.approx((100 * 50 / 60, 80))
    assert (fp32["mCE (15)"].value, lsq["mCE (19)"].value) == pytest.approx((100, 120))
    table = by_severity(both, (1, 3))
    assert table.header[4:] == ("severity 1", "severity 3", "mean")
    assert [entry.value for entry in table.rows[0][4:]] == pytest.approx([-10, -10, -10])


def test_seeds_give_mean_sd_and_n(tmp_path: Path) -> None:
    rows = [row for seed, value in enumerate((0.5, 0.4, 0.6)) for row in run_records(value, bits=4, seed=seed)]
    rows += [row for seed in range(3) for row in run_records(0.6, seed=seed)]
    (group,) = by_seed(compared(write(tmp_path / "r.csv", rows)))
    found = estimate(group, lambda q, fp: map_delta(q, fp, "fog", (3,)))
    assert (found.value, found.sd, found.n) == pytest.approx((-10, 10, 3))
    assert entry_text(found) == "-10.00 ± 10.00"


def test_one_seed_twice_is_refused(tmp_path: Path) -> None:
    rows = run_records(0.6) + run_records(0.5, bits=4, run_id="a") + run_records(0.5, bits=4, run_id="b")
    with pytest.raises(AnalysisError, match="a and b are the same but for their weights"):
        table1(compared(write(tmp_path / "r.csv", rows)), (3,))


def test_intervals_hold_their_values_and_a_baseline_of_itself_is_zero(tmp_path: Path) -> None:
    path = write_study(tmp_path, bits=(32, 4))
    table = by_condition(compared(path, tmp_path / "per_image"), (3,))
    assert len(table.rows) == 22
    for _, entry in table.rows:
        assert isinstance(entry, Estimate)
        assert entry.lo <= entry.value <= entry.hi
    mean = table.rows[-1][1]
    assert mean.hi - mean.lo < table.rows[5][1].hi - table.rows[5][1].lo  # type: ignore[union-attr]
    fp32 = robustness(compared(path, tmp_path / "per_image"), (3,)).rows[0]
    assert (fp32[-1].value, fp32[-1].lo, fp32[-1].hi) == pytest.approx((100, 100, 100))  # type: ignore[union-attr]
    assert math.isnan(table1(compared(path), (3,)).rows[0][-1].lo)  # type: ignore[union-attr]


def test_the_bootstrap_says_how_far_it_is(tmp_path: Path) -> None:
    path = write_study(tmp_path, bits=(32, 8, 4), n_images=12)
    shown: list[tuple[str, int]] = []
    done: list[int] = []

    @contextmanager
    def progress(label: str, total: int) -> Iterator[Callable[[int], object]]:
        shown.append((label, total))
        yield done.append

    report.table(report.Request(records=path, progress=progress))
    assert shown == [("bootstrap", 60)]  # three runs, the baseline once
    assert sum(done) == 60
    report.table(report.Request(records=path, progress=progress, intervals=False))
    assert len(shown) == 1


def test_a_per_image_file_that_contradicts_its_record_is_refused(tmp_path: Path) -> None:
    path = write_study(tmp_path, bits=(32, 4))
    folder = tmp_path / "per_image" / "yolov5n-lsq-w4-s0"
    (folder / "fog-3.npz").write_bytes((folder / "snow-3.npz").read_bytes())
    with pytest.raises(AnalysisError, match=r"fog-3.npz gives map50_95=.* different measurements"):
        compared(path, tmp_path / "per_image")


def test_files_of_other_images_or_labels_are_refused_across_conditions_too(tmp_path: Path) -> None:
    path = write_study(tmp_path, bits=(32, 4))
    file = tmp_path / "per_image" / "yolov5n-lsq-w4-s0" / "fog-3.npz"
    found = image_statistics.read(file)
    image_statistics.write(file, replace(found, names=np.char.add(found.names, "x")))
    with pytest.raises(AnalysisError, match=r"yolov5n-lsq-w4-s0 \(fog-3\) and yolov5n-fp32-w32-s0 .* different images"):
        compared(path, tmp_path / "per_image")


def test_no_error_left_has_no_interval_and_no_warning(tmp_path: Path) -> None:
    best = Comparison(
        compared(write(tmp_path / "r.csv", run_records(0.6) + run_records(0.5, bits=4)))[0].pair,
        {("clean", 0): np.array([100.0, 100.0, 50.0])},
        {("clean", 0): np.array([50.0, 100.0, 50.0])},
    )
    found = estimate([best], lambda q, fp: error_improvement(fp["clean", 0], q["clean", 0]))
    assert found.value == pytest.approx(100 * math.log10(40 / 50))
    assert math.isnan(found.lo)


def test_a_missing_file_means_no_interval_and_a_missing_cell_is_listed(tmp_path: Path) -> None:
    path = write_study(tmp_path, bits=(32, 4), leave_out=("fog", "snow"))
    (tmp_path / "per_image" / "yolov5n-lsq-w4-s0" / "frost-3.npz").unlink()
    table = by_condition(compared(path, tmp_path / "per_image"), (3,))
    entries = {row[0]: row[1] for row in table.rows}
    assert entry_text(entries["fog"]) == entry_text(entries["mean of 19"]) == "-"
    assert math.isnan(entries["frost"].lo)  # type: ignore[union-attr]
    assert not math.isnan(entries["frost"].value)  # type: ignore[union-attr]
    assert sum("Not measured, left empty: yolov5n-lsq-w4-s0: snow-3, fog-3." in note for note in table.notes) == 1
    assert "0.00" not in to_text(table).partition("fog")[2].splitlines()[0]


SMALL = Table(
    "T", ("a_b", "x"), (("lsq|8%", Estimate(-1.234, 0.1, 3, -2.0, 0.5)), ("fp32", Estimate(math.nan))), ("n",)
)


def test_formats() -> None:
    assert to_text(SMALL).splitlines() == [
        "T",
        "",
        "a_b     " + "x".rjust(26),
        "lsq|8%  -1.23 ± 0.10 [-2.00, 0.50]",
        "fp32    " + "-".rjust(26),
        "",
        "n",
    ]
    assert to_markdown(SMALL).splitlines()[2:] == [
        "| a_b | x |", "| --- | ---: |", r"| lsq\|8% | -1.23 ± 0.10 [-2.00, 0.50] |", "| fp32 | - |", "", "- n",
    ]  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(to_csv(SMALL))))
    assert rows[0] == {"a_b": "lsq|8%", "x": "-1.234", "x sd": "0.1", "x lo": "-2.0", "x hi": "0.5"}
    assert rows[1] == {"a_b": "fp32", "x": "", "x sd": "", "x lo": "", "x hi": ""}
    assert r"a\_b & x \\" in to_latex(SMALL)
    assert r"lsq|8\% & $-$1.23 $\pm$ 0.10 [$-$2.00, 0.50] \\" in to_latex(SMALL)
    assert to_latex(SMALL).splitlines()[2] == r"\begin{tabular}{lr}"


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("format_", FORMATS)
def test_every_table_in_every_format(tmp_path: Path, name: str, format_: str) -> None:
    both = compared(write(tmp_path / "r.csv", run_records(0.6) + run_records(0.5, bits=4, precision="fp16")))
    table = TABLES[name](both, (3,))
    assert any("Different arithmetic" in note for note in table.notes)
    assert "lsq 4" in FORMATS[format_](table)
