"""Low bits from a trained classifier: epoch 0, quantization without training, correction afterwards."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from qreg_yolo.classify.checkpoint import load_classifier
from qreg_yolo.classify.correct import CorrectionRequest, correct
from qreg_yolo.classify.ptq import PTQRequest, quantize
from qreg_yolo.classify.runs import Measuring
from qreg_yolo.errors import WeightsError
from qreg_yolo.io import records
from qreg_yolo.io.results_csv import read_results
from qreg_yolo.quant.convert import quantized_layers
from qreg_yolo.quant.spec import QuantSpec
from tests.classify.classify_helpers import train
from tests.classify.synthetic_networks import NORMED


def measuring(folder: Path) -> Measuring:
    return Measuring(model=NORMED, threads=1, device="cpu", project=str(folder), verify=False)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return records.read(next(folder.rglob(records.FILE))).to_dicts()


def codes(path: Path) -> dict[str, torch.Tensor]:
    model, _, _ = load_classifier(path, NORMED)
    return {name: one.weight_fake_quant.to_int(one.weight) for name, one in quantized_layers(model).items()}


def test_epoch_0_is_a_row_and_a_record(trained: list[Path], cifar10: Path, tmp_path: Path) -> None:
    folder = train(cifar10, tmp_path, bits=8, epochs=1, weights=str(trained[0]))
    table = read_results(folder / "results.csv")
    assert table.untrained is not None
    zero = dict(zip(table.headings, table.untrained, strict=True))
    assert math.isnan(zero["train/loss"])
    rows = rows_of(folder)
    before = {row["metric"]: row for row in rows if "-epoch0-" in row["run_id"]}
    assert before["accuracy_top1"]["value"] == pytest.approx(zero["metrics/accuracy_top1"])
    assert {row["training"] for row in before.values()} == {"none"}
    assert {row["training"] for row in rows if "-last-" in row["run_id"]} == {"qat"}
    assert {row["init"] for row in rows} == {"mse"}
    for number, more in enumerate(({"epoch0": False}, {"bits": 32}, {"weights": None})):
        given = {"bits": 8, "epochs": 1, "weights": str(trained[0]), **more}
        other = train(cifar10, tmp_path / str(number), **given)
        assert read_results(other / "results.csv").untrained is None
        assert not any("-epoch0-" in row["run_id"] for row in rows_of(other))


def test_eight_bits_without_training_keep_the_logits(trained: list[Path], tmp_path: Path) -> None:
    spec = QuantSpec.from_options({"bits": 8, "init": "mse"})
    quantize(PTQRequest(weights=trained[0], spec=spec, images=32, measuring=measuring(tmp_path)))
    path = next(tmp_path.rglob("ptq.safetensors"))
    exact, _, _ = load_classifier(trained[0], NORMED)
    found, description, _ = load_classifier(path, NORMED)
    assert (description.training, description.spec) == ("none", spec)
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        assert (found(images) - exact(images)).abs().max() < 0.1 * exact(images).abs().max()
    row = next(row for row in rows_of(tmp_path) if row["metric"] == "accuracy_top1")
    assert (row["training"], row["init"], row["weight_bits"]) == ("none", "mse", 8)
    with pytest.raises(WeightsError, match="is quantized already"):
        quantize(PTQRequest(weights=trained[1], spec=spec, images=8, measuring=measuring(tmp_path)))


def test_a_correction_keeps_the_codes_and_moves_the_affine_parameters(trained: list[Path], tmp_path: Path) -> None:
    correct(CorrectionRequest(weights=trained[1], measuring=measuring(tmp_path), lr0=0.01))
    path = next(tmp_path.rglob("last-corrected.safetensors"))
    before, after = codes(trained[1]), codes(path)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    one, other = (load_classifier(found, NORMED)[0].state_dict() for found in (trained[1], path))
    moved = {name for name, tensor in one.items() if tensor.shape != other[name].shape or not tensor.equal(other[name])}
    network, _, _ = load_classifier(path, NORMED)
    norms = [name for name, module in network.named_modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms
    assert {f"{name}.{kind}" for name in norms for kind in ("weight", "bias")} <= moved
    assert not any(name.endswith(("running_mean", "running_var")) for name in moved)
    with pytest.raises(WeightsError, match="nothing to correct"):
        correct(CorrectionRequest(weights=trained[0], measuring=measuring(tmp_path)))


def test_new_statistics_alone(trained: list[Path], tmp_path: Path) -> None:
    correct(CorrectionRequest(weights=trained[1], measuring=measuring(tmp_path), epochs=0, bn_batches=3))
    path = next(tmp_path.rglob("last-corrected.safetensors"))
    one, other = (load_classifier(found, NORMED)[0].state_dict() for found in (trained[1], path))
    moved = {name for name, tensor in one.items() if not torch.equal(tensor, other[name])}
    assert moved
    assert all(name.endswith(("running_mean", "running_var", "num_batches_tracked")) for name in moved)
