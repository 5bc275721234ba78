"""Post-training quantization of a detector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from qreg_yolo.detect import evaluate
from qreg_yolo.detect.checkpoint import load_weights
from qreg_yolo.detect.ptq import PTQRequest, quantize, quantized
from qreg_yolo.errors import WeightsError
from qreg_yolo.io import records
from qreg_yolo.quant.convert import quantized_layers
from qreg_yolo.quant.spec import QuantSpec
from tests.detect import factories
from tests.detect.conftest import Trained

SPEC = QuantSpec.from_options({"bits": 8, "method": "lsq+", "init": "mse"})


def request(weights: Path, folder: Path, spec: QuantSpec = SPEC, **more: Any) -> PTQRequest:
    arguments = {"plots": False, "project": str(folder), "name": "run"}
    return PTQRequest(weights=weights, spec=spec, images=8, threads=1, arguments=arguments, **more)


def maps(folder: Path) -> dict[str, Any]:
    rows = records.read(folder / records.FILE).to_dicts()
    return {row["metric"]: row for row in rows}


def test_eight_bits_keep_the_accuracy_and_the_records_say_how(baseline: Trained, tmp_path: Path) -> None:
    result = quantize(request(baseline.best, tmp_path))
    row = maps(result.save_dir)["map50_95"]
    assert row["value"] == pytest.approx(baseline.best_map[1], abs=0.03)
    assert (row["method"], row["weight_bits"], row["init"], row["training"]) == ("lsq+", 8, "mse", "none")
    assert row["run_id"].startswith("tiny-lsqplus-w8a8-s0-ptq-")
    path = result.save_dir / "weights" / "ptq.pt"
    again = evaluate.validate(path, None, {"plots": False, "project": str(tmp_path), "name": "val"}, 1)
    assert maps(again.save_dir)["map50_95"]["value"] == row["value"]
    assert maps(again.save_dir)["map50_95"]["training"] == "none"


def test_the_two_files_hold_one_network(baseline: Trained, tmp_path: Path) -> None:
    folder = quantize(request(baseline.best, tmp_path)).save_dir / "weights"
    pair = [load_weights(folder / name)[0].state_dict() for name in ("ptq.pt", "ptq.safetensors")]
    assert pair[0].keys() == pair[1].keys()
    assert all(torch.equal(tensor, pair[1][name]) for name, tensor in pair[0].items())


def test_the_weights_stay_and_only_ranges_are_added(baseline: Trained, tmp_path: Path) -> None:
    before, _ = load_weights(baseline.best)
    after, _ = load_weights(quantize(request(baseline.best, tmp_path)).save_dir / "weights" / "ptq.pt")
    state = after.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in before.state_dict().items())
    assert quantized_layers(after)


def test_a_quantized_checkpoint_is_refused(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"is quantized already \(lsq-w4a4\)"):
        quantize(request(trained.best, tmp_path))
    assert not any(tmp_path.iterdir())


def test_a_detector_that_its_yaml_does_not_describe_is_refused() -> None:
    model = factories.build(bits=32)
    model.model[0].conv.weight = torch.nn.Parameter(torch.zeros(7, 3, 3, 3))
    with pytest.raises(WeightsError, match="cannot be rebuilt from its YAML"):
        quantized(model, SPEC)
