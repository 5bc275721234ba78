"""The same numbers everywhere, on the same quantizers, from a checkpoint that holds them exactly."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from qreg_yolo.cli import main
from qreg_yolo.detect import QuantYOLO
from qreg_yolo.quant import quantized_layers
from tests.detect.conftest import CallCounter, Trained


def _val(run: Trained, weights: Path, tmp_path: Path, **more: Any) -> tuple[float, float]:
    box = QuantYOLO(str(weights)).val(project=str(tmp_path), name="val", plots=False, **more).box
    return float(box.map50), float(box.map)


def test_training_final_eval_and_val_agree(trained: Trained, tmp_path: Path) -> None:
    best_epoch = max(trained.epochs, key=lambda pair: pair[1])
    assert best_epoch != trained.epochs[-1], "the best checkpoint is the last one"
    assert trained.best_map == pytest.approx(best_epoch, abs=1e-4)
    assert _val(trained, trained.best, tmp_path) == pytest.approx(trained.best_map, abs=1e-4)
    assert _val(trained, trained.last, tmp_path) == pytest.approx(trained.epochs[-1], abs=1e-4)


def test_results_csv_has_the_numbers_of_validation(trained: Trained) -> None:
    with (trained.save_dir / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    written = [float(row["metrics/mAP50-95(B)"]) for row in rows if row["metrics/mAP50-95(B)"] != "nan"]
    assert written == pytest.approx([m for _, m in trained.epochs], abs=1e-5)
    assert [key for key in rows[0] if key.startswith("lr/")] == ["lr/pg0", "lr/pg1", "lr/pg2", "lr/pg3"]


def test_the_command_line_agrees(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["val", str(trained.best), f"project={tmp_path}", "plots=false", "--threads", "1"])
    assert stop.value.code == 0
    table = re.search(r"best\.pt\s+([\d.]+)\s+([\d.]+)", capsys.readouterr().out)
    assert table is not None
    assert (float(table[1]), float(table[2])) == pytest.approx(trained.best_map, abs=1e-4)


def test_every_pass_runs_each_quantizer_once(trained: Trained, counter: CallCounter, tmp_path: Path) -> None:
    for phase in ("train", "val", "final_eval"):
        assert trained.counter.per_pass(phase) == (30, 30), phase
    counter.phase = "standalone val"
    _val(trained, trained.best, tmp_path)
    counter.phase = "predict"
    QuantYOLO(str(trained.best)).predict(torch.rand(1, 3, 64, 64), verbose=False, imgsz=64)
    for phase in ("standalone val", "predict"):
        assert counter.per_pass(phase) == (30, 30), phase


def test_a_forward_without_its_quantizers_is_noticed(trained: Trained, counter: CallCounter) -> None:
    model = QuantYOLO(str(trained.best)).model
    quantized_layers(model)["model.0.conv"].input_fake_quant = None
    counter.phase = "broken"
    model(torch.rand(1, 3, 64, 64))
    assert counter.per_pass("broken") == (30, 29)


def test_checkpoint_holds_the_trained_tensors_in_float32(trained: Trained) -> None:
    stored = torch.load(trained.best, weights_only=False, map_location="cpu")["model"]
    for name, tensor in stored.state_dict().items():
        if tensor.is_floating_point():
            assert tensor.dtype == torch.float32, name
    rounded = stored.state_dict()["model.1.conv.weight"].half().float()
    assert not torch.equal(rounded, stored.state_dict()["model.1.conv.weight"]), "the weights went through fp16"


def test_flags_were_set_before_the_average_was_made(trained: Trained) -> None:
    assert len(trained.ema_flags) == 60
    assert all(trained.ema_flags)


def test_weights_of_the_checkpoint_lie_on_at_most_16_levels(trained: Trained) -> None:
    """By independent arithmetic: round(clip(w / s)) * s in float64 from the stored tensors alone."""
    state = torch.load(trained.best, weights_only=False, map_location="cpu")["model"].state_dict()
    inner = 0
    for key in state:
        if not key.endswith("weight_fake_quant.step_size"):
            continue
        name = key.removesuffix(".weight_fake_quant.step_size")
        weight, step = state[f"{name}.weight"].double(), state[key].double()
        assert step > 0
        bits = 8 if name == "model.0.conv" or re.fullmatch(r"model\.7\.cv[23]\.\d\.2", name) else 4
        codes = torch.round(torch.clamp(weight / step, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1))
        assert torch.unique(codes * step).numel() <= 2**bits, name
        inner += bits == 4
    assert inner == 23
