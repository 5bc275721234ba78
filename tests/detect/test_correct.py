"""Quantization correction of a detector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from qreg_yolo.detect.checkpoint import load_weights
from qreg_yolo.detect.correct import CorrectionRequest, correct
from qreg_yolo.detect.policy import output_convolutions
from qreg_yolo.errors import WeightsError
from qreg_yolo.io import records
from qreg_yolo.quant.convert import quantized_layers
from tests.detect.conftest import Trained


def corrected(weights: Path, folder: Path, **more: Any) -> Path:
    arguments = {"project": str(folder), "name": "run", "workers": 0}
    return correct(CorrectionRequest(weights=weights, threads=1, arguments=arguments, **more)).save_dir


def codes(model: nn.Module) -> dict[str, torch.Tensor]:
    layers = quantized_layers(model).items()
    return {name: layer.weight_fake_quant.to_int(layer.weight) for name, layer in layers if layer.weight_fake_quant}


def test_codes_and_statistics_stay_and_the_affine_parameters_move(trained: Trained, tmp_path: Path) -> None:
    folder = corrected(trained.best, tmp_path, lr0=0.01)
    before, after = (load_weights(path)[0] for path in (trained.best, folder / "weights" / "best-corrected.pt"))
    one, other = codes(before), codes(after)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    state, moved = before.state_dict(), after.state_dict()
    ends = tuple(f"{name}." for name in output_convolutions(before))
    for name, tensor in state.items():
        if name.endswith((".bn.weight", ".bn.bias")) or (name.startswith(ends) and name.endswith(".bias")):
            assert not torch.equal(tensor, moved[name]), name
        elif not name.startswith(ends) and not name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, moved[name]), name
    scaled = 0
    for name in output_convolutions(after):
        step, old = (model.get_submodule(name).weight_fake_quant.step_size for model in (after, before))
        assert step.shape == (len(after.get_submodule(name).weight),)
        scaled += int((~torch.isclose(step, old, rtol=1e-4)).sum())
    assert scaled > 0, "levels without objects have no gradient, but not all are such"
    rows = records.read(folder / records.FILE).to_dicts()
    assert {row["run_id"].rsplit("-", 1)[0] for row in rows} == {"tiny-lsq-w4a4-s0-best-corrected"}


def test_new_statistics_alone_move_nothing_else(trained: Trained, tmp_path: Path) -> None:
    folder = corrected(trained.best, tmp_path, epochs=0, bn_batches=3)
    before, after = (load_weights(path)[0] for path in (trained.best, folder / "weights" / "best-corrected.pt"))
    moved = after.state_dict()
    for name, tensor in before.state_dict().items():
        statistics = name.endswith(("running_mean", "running_var", "num_batches_tracked"))
        assert torch.equal(tensor, moved[name]) != statistics, name


def test_a_checkpoint_in_full_precision_is_refused(baseline: Trained, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="in full precision: there is nothing to correct"):
        corrected(baseline.best, tmp_path)
    assert not any(tmp_path.iterdir())
