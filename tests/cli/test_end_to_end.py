"""A stranger's session: train, look at what lies there, measure, predict, inspect."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path

import pytest

from qreg_yolo.config import detection
from qreg_yolo.io import records
from tests.cli.conftest import RECIPE, Run, qreg_yolo, train_run

ACCURACIES = {"map50", "map50_95", "precision", "recall"}
LOSSES = {f"{split}_{name}_loss" for split in ("train", "val") for name in ("box", "cls", "dfl")}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_train_prints_what_was_quantized_the_table_and_the_paths(trained: Run) -> None:
    log, out = trained.printed.log, trained.printed.out
    assert "Quantized: 30 convolutions (7 x W8 lsq A8 lsq, 23 x W4 lsq A4 lsq)" in log
    assert "Full precision: model.7.dfl.conv (DFL" in log
    assert log.count("Quantized: ") == 1
    lines = out.splitlines()[-5:]
    assert lines[0].split() == ["mAP50", "mAP50-95", "precision", "recall"]
    assert [line.split("  ")[0] for line in lines[1:3]] == ["last epoch (last.pt)", "best epoch (best.pt)"]
    assert "MB at its bit widths" in lines[3]
    assert str(trained.folder) in lines[4]


def test_train_writes_its_files(trained: Run) -> None:
    found = {str(p.relative_to(trained.folder)) for p in trained.folder.rglob("*") if p.is_file()}
    assert found == {
        "args.yaml", "config.yaml", "environment.json", "qreg.json", "records.csv", "results.csv", "weights/best.pt",
        "weights/best.safetensors",
        "weights/last.pt",
    }  # fmt: skip
    environment = json.loads((trained.folder / "environment.json").read_text())
    assert {"commit", "command", "versions", "time", "device", "threads", "platform"} == environment.keys()
    assert environment["threads"] == 1
    section = json.loads((trained.folder / "qreg.json").read_text())
    assert len(section["layers"]) == 30
    assert {layer["input"]["signed"] for layer in section["layers"].values()} == {True, False}, "auto is resolved"


def test_config_yaml_is_the_run(trained: Run, hyp: Path, data: Path) -> None:
    stored = detection.load(trained.folder / "config.yaml")
    options = {"bits": 4, "method": "lsq", "seed": 3, "data": str(data), "threads": 1, "recipe": hyp.stem}
    assert stored == detection.resolve(hyp, options, {"project": str(trained.folder.parent), "name": "run"})
    assert detection.resolve(trained.folder / "config.yaml", {}, {}) == stored, "as a recipe it repeats the run"
    assert stored.train == {**RECIPE, "project": str(trained.folder.parent), "name": "run"}


def test_records_hold_each_number_with_its_provenance(trained: Run) -> None:
    table = records.read(trained.folder / "records.csv")
    assert len(table) == 4 + 10
    for name in ("last", "best"):
        rows = table.filter(table["weights_sha256"] == sha256(trained.folder / "weights" / f"{name}.pt"))
        assert set(rows["metric"]) >= ACCURACIES, name
        if name == "last":
            assert set(rows["metric"]) == ACCURACIES | LOSSES
    common = table.select("track", "model", "method", "weight_bits", "act_bits", "precision", "seed", "data").unique()
    assert common.rows() == [("detect", "tiny.yaml", "lsq", 4, 4, "fp32", 3, "demo")]
    assert set(table.select("split", "n_images").unique().rows()) == {("train", 8), ("val", 4)}
    with (trained.folder / "results.csv").open(newline="") as file:
        (last,) = csv.DictReader(file)
    (loss,) = table.filter(table["metric"] == "train_box_loss")["value"]
    assert loss == pytest.approx(float(last["train/box_loss"]))


def test_val(trained: Run, data: Path) -> None:
    outcome = qreg_yolo("val", trained.best, "--threads", 1, "plots=false")
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines()[-2].split()[0] == "best.pt"
    table = records.read(Path("runs/val/records.csv"))
    assert set(table["metric"]) == ACCURACIES
    assert set(table.select("weights_sha256", "model", "data", "split", "n_images", "seed").rows()) == {
        (sha256(trained.best), "tiny.yaml", "demo", "val", 4, 3)
    }
    trained_table = records.read(trained.folder / "records.csv")
    before = trained_table.filter(trained_table["weights_sha256"] == sha256(trained.best))
    for metric in ACCURACIES:
        pair = [t.filter(t["metric"] == metric)["value"][0] for t in (before, table)]
        assert pair[0] == pytest.approx(pair[1], abs=1e-4), metric


def test_val_on_another_split(trained: Run, data: Path) -> None:
    outcome = qreg_yolo("val", trained.best, "--data", data, "--threads", 1, "split=train", "plots=false", "name=x")
    assert outcome.code == 0, outcome.err
    assert set(records.read(Path("runs/x/records.csv")).select("split", "n_images").rows()) == {("train", 8)}


def test_predict(trained: Run, data: Path) -> None:
    outcome = qreg_yolo("predict", trained.best, data.parent / "images" / "val", "--threads", 1, "conf=0.001")
    assert outcome.code == 0, outcome.err
    assert "on 4 images" in outcome.out
    assert len(list(Path("runs/predict").glob("*.[jp][pn]g"))) == 4
    outcome = qreg_yolo(
        "predict", trained.best, f"{data.parent}/images/val/val-000[01]*.png", "--threads", 1, "save=false"
    )
    assert outcome.code == 0, outcome.err


def test_inspect(trained: Run) -> None:
    outcome = qreg_yolo("inspect", trained.best)
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert len(lines) == 1 + 31 + 2
    assert lines[1].split()[:2] == ["model.0.conv", "8"]
    assert "lsq-w4a4" in lines[-2]


def test_inspect_as_json(trained: Run) -> None:
    outcome = qreg_yolo("inspect", trained.best, "--json")
    report = json.loads(outcome.out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert (outcome.code, report["label"], report["imgsz"], report["warning"]) == (0, "lsq-w4a4", 32, None)
    layers = {layer["name"]: layer for layer in report["layers"]}
    widths = sorted((layer["weight_bits"], layer["input_bits"]) for layer in layers.values())
    assert widths == [(4, 4)] * 23 + [(8, 8)] * 7 + [(32, 32)]
    inner = [layer for layer in layers.values() if layer["weight_bits"] == 4]
    assert all(2 <= layer["weight_codes_used"] <= 16 for layer in inner)
    assert all(layer["input_step"] > 0 and layer["input_signed"] in (True, False) for layer in inner)
    assert report["quantized_mb"] < 0.2 * report["float_mb"]
    assert report["float_mb"] == pytest.approx(1.15, abs=0.01)
    macs = sum(layer["macs"] for layer in layers.values())
    assert report["float_bit_operations"] == macs * 32 * 32
    assert report["bit_operations"] == sum(
        layer["macs"] * layer["weight_bits"] * layer["input_bits"] for layer in layers.values()
    )


@pytest.mark.parametrize(
    ("options", "label", "section"),
    [
        (["--bits", "32"], "fp32", "nothing"),
        (["--method", "dorefa", "--weight-only"], "dorefa-w4a32", "23 x W4 dorefa A32"),
        (["--weight-bits", "2", "--act-bits", "8", "--per-channel"], "lsq-w2a8", "23 x W2 lsq A8 lsq"),
        (["--method", "lsq+"], "lsqplus-w4a4", "23 x W4 lsq+ A4 lsq+"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_widths(options: list[str], label: str, section: str, hyp: Path, data: Path, tmp_path: Path) -> None:
    run = train_run(tmp_path, hyp, data, *options)
    assert f"{section}" in next(line for line in run.printed.log.splitlines() if line.startswith("Quantized: "))
    assert "WARNING" not in run.printed.log
    assert json.loads(qreg_yolo("inspect", run.best, "--json").out)["label"] == label
    method = label.partition("-")[0].replace("plus", "+")
    assert set(records.read(run.folder / "records.csv")["method"]) == {method}
    assert ("Inputs: 30 with an offset" in run.printed.log) is (method == "lsq+")
    assert ("offset" in qreg_yolo("inspect", run.best).out.splitlines()[0]) is (method == "lsq+")


def test_pact_warns_on_silu_and_not_on_relu(hyp: Path, data: Path, tmp_path: Path) -> None:
    silu = train_run(tmp_path / "silu", hyp, data, "--method", "pact").printed.log
    warning = next(line for line in silu.splitlines() if "SiLU" in line)
    assert all(word in warning for word in ("pact", "-0.28", "--activation relu", "--method lsq"))
    relu = train_run(tmp_path / "relu", hyp, data, "--method", "pact", "--activation", "relu").printed.log
    assert "SiLU" not in relu
    assert "pact" in relu


def test_a_run_starts_from_weights_and_from_a_part_of_the_data(
    trained: Run, hyp: Path, data: Path, tmp_path: Path
) -> None:
    run = train_run(tmp_path, hyp, data, "--weights", trained.best, "--bits", 4, "fraction=0.5")
    table = records.read(run.folder / "records.csv")
    assert set(table.select("split", "n_images").unique().rows()) == {("train", 4), ("val", 4)}
    assert not any("Calibrated" in line for line in run.printed.log.splitlines()), "the ranges come from the weights"


def test_a_second_run_of_the_same_name_does_not_overwrite_the_first(trained: Run, hyp: Path, data: Path) -> None:
    before = sha256(trained.best)
    train_run(trained.folder.parent, hyp, data, "--bits", 32)
    assert sorted(path.name for path in trained.folder.parent.iterdir()) == ["run", "run-2"]
    assert sha256(trained.best) == before
    shutil.rmtree(trained.folder.parent / "run-2")
