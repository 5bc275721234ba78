"""The accuracy of a quantized network before its training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from qreg_yolo.config.detection import resolve
from qreg_yolo.detect import epoch_zero, evaluate, runs
from qreg_yolo.detect.checkpoint import load_weights
from qreg_yolo.detect.epoch_zero import comes_from
from qreg_yolo.io import records
from qreg_yolo.io.results_csv import read_results
from tests.detect import factories
from tests.detect.conftest import SETTINGS, Trained


def trained_from(weights: Path | None, data: Path, folder: Path, **options: Any) -> runs.outputs.RunResult:
    asked = {"bits": 8, "method": "lsq+", "data": str(data), "model": options.pop("model", None), "threads": 1}
    start = {} if weights is None else {"weights": str(weights)}
    given = {name: value for name, value in {**asked, **start, **options}.items() if value is not None}
    settings = {**SETTINGS, "epochs": 1, "project": str(folder), "name": "run"}
    return runs.train(resolve(None, given, settings))


@pytest.fixture(scope="module")
def run(baseline: Trained, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of one epoch at 8 bits from the baseline."""
    from tests import TINY

    folder = tmp_path_factory.mktemp("zero")
    return trained_from(baseline.best, tiny_data, folder, model=TINY).save_dir


def test_the_row_and_the_record_are_those_of_the_untrained_network(run: Path, baseline: Trained) -> None:
    table = read_results(run / "results.csv")
    assert table.untrained is not None
    zero = dict(zip(table.headings, table.untrained, strict=True))
    assert math.isnan(zero["train/box_loss"])
    assert math.isnan(zero["lr/pg0"])
    assert zero["metrics/mAP50-95(B)"] == pytest.approx(baseline.best_map[1], abs=0.03)
    assert zero["val/box_loss"] > 0
    rows = records.read(run / records.FILE).to_dicts()
    names = [row["run_id"].split("-s0-")[1].split("-")[0] for row in rows]
    assert list(dict.fromkeys(names)) == ["last", "best", "epoch0"]
    last = {row["metric"]: row for row in rows if "-epoch0-" in row["run_id"]}
    assert last["map50_95"]["value"] == pytest.approx(zero["metrics/mAP50-95(B)"], rel=1e-5)
    assert {row["training"] for row in last.values()} == {"none"}
    assert {row["training"] for row in rows if "-epoch0-" not in row["run_id"]} == {"qat"}
    assert not any(metric.startswith("train") for metric in last)


def test_the_best_epoch_is_a_trained_one(run: Path) -> None:
    rows = records.read(run / records.FILE).to_dicts()
    table = read_results(run / "results.csv")
    assert table.column("epoch") == [1]
    best = next(row for row in rows if "-best-" in row["run_id"] and row["metric"] == "map50_95")
    assert best["value"] == pytest.approx(table.column("metrics/mAP50-95(B)")[0], rel=1e-4)


def test_the_baseline_comes_from_its_records_if_they_fit(baseline: Trained, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    (folder / "weights").mkdir(parents=True)
    copy = folder / "weights" / "best.pt"
    copy.write_bytes(baseline.best.read_bytes())
    arguments = {"plots": False, "project": str(tmp_path), "name": "base", "exist_ok": True}
    evaluate.validate(copy, None, arguments, 1)
    row = next(r for r in records.read(folder / records.FILE).to_dicts() if r["metric"] == "map50_95")
    assert epoch_zero._recorded(copy, row["evaluation"]) == row["value"]
    assert epoch_zero._recorded(copy, row["evaluation"] + " imgsz=1") is None
    copy.write_bytes(baseline.last.read_bytes() + b"\n")
    assert epoch_zero._recorded(copy, row["evaluation"]) is None
    (folder / records.FILE).write_text("no table")
    assert epoch_zero._recorded(copy, row["evaluation"]) is None


@pytest.mark.parametrize(("quantized", "advice"), [(0.3, False), (0.05, False), (0.03, True), (0.0, True)])
def test_advice_is_given_where_little_is_left(quantized: float, advice: bool) -> None:
    line = epoch_zero._line(0.4, quantized)
    assert line.startswith(f"mAP50-95: fp32 0.400, quantized before training {quantized:.3f}")
    assert ("--per-channel" in line) == advice


def test_every_tensor_has_to_come_from_the_weights(baseline: Trained) -> None:
    start, _ = load_weights(baseline.best)
    model = factories.build(nc=len(start.names), pretrained=True, bits=4, method="lsq+")
    assert not comes_from(model, None)
    assert not comes_from(model, start)
    model.load(start, verbose=False)
    assert comes_from(model, start)
    with torch.no_grad():
        model.model[-1].cv2[0][-1].bias[0] += 1
    assert not comes_from(model, start)
    assert not comes_from(factories.build(nc=len(start.names) + 1, bits=4), start)


def test_none_from_scratch_of_a_baseline_or_where_it_is_not_wanted(
    baseline: Trained, tiny_data: Path, tmp_path: Path
) -> None:
    from tests import TINY

    for number, (weights, more) in enumerate(
        [(None, {}), (baseline.best, {"bits": 32}), (baseline.best, {"epoch0": False})]
    ):
        folder = trained_from(weights, tiny_data, tmp_path / str(number), model=TINY, **more).save_dir
        assert read_results(folder / "results.csv").untrained is None
        assert not any("-epoch0-" in name for name in records.read(folder / records.FILE)["run_id"])
