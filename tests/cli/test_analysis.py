"""``table`` and ``plot``: what they write, and one clear message for what cannot be used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from qreg_yolo.cli import comparing
from qreg_yolo.cli.process import bar
from qreg_yolo.terminal import no_progress
from tests import ROOT
from tests.analysis.synthetic_records import record, run_records, write, write_study
from tests.cli.conftest import assert_refused, qreg_yolo


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the records of fp32 and 4 bits on two severities, with per-image files."""
    return write_study(tmp_path_factory.mktemp("study"), bits=(32, 8, 4), severities=(1, 3), n_images=12)


def test_tables(study: Path, tmp_path: Path) -> None:
    outcome = qreg_yolo("table", study)
    assert (outcome.code, outcome.err) == (0, "")
    assert "lsq 4" in outcome.out
    assert "95 % interval" in outcome.out
    assert "severities 1, 3" in outcome.out
    out = tmp_path / "table.csv"
    arguments = ["--kind", "severity", "--severities", "3", "--format", "csv", "--no-intervals", "--out", out]
    outcome = qreg_yolo("table", study, *arguments)
    assert out.read_text() == outcome.out
    assert outcome.out.startswith("model,data,method,seeds,severity 3,severity 3 sd")


@pytest.mark.parametrize(("terminal", "expected"), [(True, bar), (False, no_progress)])
def test_the_bootstrap_has_a_bar_on_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, expected: object
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    asked = comparing.request(Path("records.csv"), None, None, None, None, None, None, None, None, False)
    assert asked.progress is expected


def test_figures(study: Path, tmp_path: Path) -> None:
    for words in (["heatmap", study], ["severity", study, "--corruption", "fog"], ["legend"]):
        out = tmp_path / f"{words[0]}.svg"
        outcome = qreg_yolo("plot", *words, "--out", out)
        assert (outcome.code, outcome.err) == (0, "")
        assert outcome.out.startswith(str(out))
        assert out.stat().st_size > 1000


def test_curves(tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text("epoch,val/box_loss\n1,2.0\n2,1.0\n")
    outcome = qreg_yolo("plot", "curves", f"fp32={tmp_path}", "--out", tmp_path / "a.pdf")
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith(f"{tmp_path / 'a.pdf'}: val/box_loss of fp32 (1 run).\n\nOverfitting: val/box_loss")
    assert "training" not in outcome.out.partition("Gap")[0], "the file has no training loss"


def test_the_overfitting_gap_in_another_format(tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text("epoch,train/loss,val/loss\n1,2.0,3.0\n2,1.0,4.0\n")
    words = ["plot", "curves", f"a={tmp_path}", "--column", "val/loss", "--out", tmp_path / "a.svg"]
    outcome = qreg_yolo(*words, "--format", "markdown")
    assert "| a | 1 | 1 | 3.00000 | 4.00000 | 1.00000 | 33.3 | 1.00000 | 3.00000 |" in outcome.out
    assert_refused(qreg_yolo(*words, "--format", "markdwn"), 2, "Did you mean 'markdown'")
    assert qreg_yolo(*words, "--x", "train/loss").code == 0
    assert_refused(qreg_yolo(*words, "--x", "train/los"), 2, "Did you mean 'train/loss'")
    assert_refused(qreg_yolo(*words, "--x", "train/loss", "--smoothing", 0.5), 2, "--smoothing applies to epochs")


def test_warnings_and_missing_conditions_are_printed(tmp_path: Path) -> None:
    path = write(
        tmp_path / "r.csv", [*run_records(), *run_records(bits=4, precision="bf16", conditions=("clean", "fog"))]
    )
    for command in (["table", path], ["plot", "heatmap", path, "--out", tmp_path / "a.png"]):
        outcome = qreg_yolo(*command)
        assert outcome.code == 0, outcome.err
        assert "Different arithmetic: yolov5n-lsq-w4-s0 was measured in bf16" in outcome.out
        assert "Not measured, left empty: yolov5n-lsq-w4-s0: gaussian_noise-3" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["table", "nowhere.csv"], ["nowhere.csv does not exist"]),
        (["table", "RECORDS", "--kind", "table2"], ["kind='table2'", "Did you mean 'table1'"]),
        (["table", "RECORDS", "--format", "tex"], ["format='tex'", "latex"]),
        (["table", "RECORDS", "--out", "nowhere/t.tex"], ["nowhere is not a folder"]),
        (["table", "RECORDS", "--severities", "6"], ["severities='6'", "1-5"]),
        (["table", "RECORDS", "--severities", "3-1"], ["severities='3-1'"]),
        (["table", "RECORDS", "--metric", "map5"], ["metric='map5'", "map50_95"]),
        (["table", "RECORDS", "--baseline", "x"], ["baseline='x'", "yolov5n-fp32-w32-s0"]),
        (["table", "RECORDS", "--per-image", "nowhere"], ["nowhere is not a folder"]),
        (["plot", "heatmap", "RECORDS", "--out", "a.jpg"], ["'.jpg'", ".png, .svg, .pdf"]),
        (["plot", "heatmap", "RECORDS", "--out", "nowhere/a.png"], ["nowhere is not a folder"]),
        (["plot", "heatmap", "RECORDS", "--out", "a.png", "--palette", "rainbow"], ["palette='rainbow'", "red-green"]),
        (["plot", "heatmap", "RECORDS", "--out", "a.png", "--layout", "no.yaml"], ["no.yaml does not exist"]),
        (["plot", "severity", "RECORDS", "--out", "a.png", "--corruption", "fogg"], ["Did you mean 'fog'"]),
        (["plot", "curves", "nowhere.csv", "--out", "a.png"], ["nowhere.csv does not exist"]),
        (["plot", "curves", "results.csv", "--out", "a.png", "--smoothing", "1"], ["smoothing=1.0"]),
        (
            ["plot", "curves", "results.csv", "--out", "a.png", "--column", "val/bx_loss"],
            ["Did you mean 'val/box_loss'"],
        ),
    ],
)
def test_wrong_usage(study: Path, arguments: list[str], words: list[str]) -> None:
    Path("results.csv").write_text("epoch,val/box_loss\n1,2.0\n")
    assert_refused(qreg_yolo(*[study if word == "RECORDS" else word for word in arguments]), 2, *words)
    assert [file.name for file in Path.cwd().iterdir()] == ["results.csv"]


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    text = tmp_path / "text.csv"
    text.write_text("a,b\n1,2\n")
    assert_refused(qreg_yolo("table", text), 1, "lacks the columns")
    assert_refused(qreg_yolo("plot", "curves", text, "--out", "a.png"), 1, "no column 'epoch'")
    text.write_bytes(b"\xff\xfe\x00")
    assert_refused(qreg_yolo("plot", "curves", text, "--out", "a.png"), 1, "is not text")
    text.write_text("epoch,val/box_loss\n")
    assert_refused(qreg_yolo("plot", "curves", text, "--out", "a.png"), 1, "holds no epoch yet")
    text.write_text("epoch,val/box_loss\nx,y\n1,2\n")
    assert_refused(qreg_yolo("plot", "curves", text, "--out", "a.png"), 1, "line 2 is not a row of numbers")
    alone = write(tmp_path / "alone.csv", run_records(bits=4))
    assert_refused(qreg_yolo("table", alone), 1, "yolov5n-lsq-w4-s0 has no fp32 baseline", "seed=0")
    wrong = write(tmp_path / "wrong.csv", [record("fog", 6)])
    assert_refused(qreg_yolo("table", wrong), 1, "severity=6 does not exist")


@pytest.mark.parametrize("tool", ["map_delta_heatmap", "plot_val_loss", "table1"])
def test_the_tools_are_the_subcommands(tool: str) -> None:
    run = subprocess.run(
        [sys.executable, str(ROOT / "tools" / f"{tool}.py"), "--help"],
        capture_output=True, text=True, timeout=120, env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    command = {"map_delta_heatmap": "plot heatmap", "plot_val_loss": "plot curves", "table1": "table"}[tool]
    assert f"Usage: qreg-yolo {command} " in run.stdout


@pytest.mark.parametrize(("row", "count"), [("3,99.9,0.5,0.25", 4), ("3,0.5", 2)])
def test_a_results_csv_whose_rows_do_not_fit_is_not_drawn(tmp_path: Path, row: str, count: int) -> None:
    path = tmp_path / "results.csv"
    path.write_text(f"epoch,train/loss,val/loss\n1,2.0,3.0\n{row}\n")
    out = tmp_path / "a.png"
    refused = qreg_yolo("plot", "curves", path, "--column", "val/loss", "--out", out)
    assert_refused(refused, 1, f"line 3 has {count} cells, the first line 3 headings")
    assert not out.exists()
