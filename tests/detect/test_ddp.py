"""Training on several GPUs: the script that Ultralytics generates for its child processes keeps our settings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ultralytics.utils.dist import ddp_cleanup, generate_ddp_file

from qreg_yolo.config.detection import resolve
from qreg_yolo.detect import QuantDetectionTrainer
from qreg_yolo.detect.checkpoint import load_weights
from qreg_yolo.detect.runs import callbacks
from qreg_yolo.io.locks import FolderLock
from qreg_yolo.quant import Quantizer, quantized_layers
from tests import TINY
from tests.detect.conftest import SETTINGS


def test_the_child_keeps_settings_calibration_and_callbacks(tiny_data: Path, tmp_path: Path) -> None:
    """The child is run alone, on the CPU: Ultralytics starts several processes on accelerators only."""
    pytest.importorskip("cloudpickle")
    request = {"weight_bits": 2, "act_bits": 8, "per_channel": True, "overrides": {"model.2.*": {"bits": 5}}}
    config = resolve(None, {"bits": 4}, {})
    settings = {**SETTINGS, "imgsz": 32, "epochs": 1, "project": str(tmp_path), "name": "run", "exist_ok": True}
    overrides = {"model": TINY, "data": str(tiny_data), "pretrained": False, "qreg": request, **settings}
    trainer = QuantDetectionTrainer(overrides=overrides)
    for event, callback in callbacks(config, FolderLock(), "tiny").items():
        trainer.add_callback(event, callback)
    script = generate_ddp_file(trainer)
    try:
        child = subprocess.run(
            [sys.executable, script], env={**os.environ, "QREG_YOLO_THREADS": "1"}, capture_output=True, text=True,
            timeout=240,
        )  # fmt: skip
    finally:
        ddp_cleanup(trainer, script)
        Path(script).with_suffix(".pt").unlink(missing_ok=True)
    assert child.returncode == 0, child.stderr[-2000:]
    assert "Calibrated 60 quantizers" in child.stdout + child.stderr
    model, _ = load_weights(tmp_path / "run" / "weights" / "best.pt")
    layers = quantized_layers(model)
    assert layers["model.1.conv"].plan.weight.bits == 2
    assert layers["model.1.conv"].plan.weight.per_channel
    assert layers["model.1.conv"].plan.input.bits == 8
    assert layers["model.2.cv1.conv"].plan.weight.bits == 5
    assert all(m.is_initialized for m in model.modules() if isinstance(m, Quantizer))
    assert all(torch.isfinite(p).all() for p in model.parameters())
    for name in ("config.yaml", "environment.json", "qreg.json"):
        assert (tmp_path / "run" / name).is_file(), "the callbacks did not travel"
