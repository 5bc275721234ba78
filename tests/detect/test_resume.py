"""A run that was killed and resumed equals a straight one, bit for bit; what a kill leaves behind is always usable."""

from __future__ import annotations

import json
import random
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from qreg_yolo.detect import resume
from qreg_yolo.detect.checkpoint import load_weights
from qreg_yolo.io import files
from qreg_yolo.quant.convert import quantized_layers
from tests import TINY
from tests.process_helpers import run_forked

CHILD = """
import json, os, signal, sys, torch
from qreg_yolo.detect import QuantYOLO
from ultralytics.utils.torch_utils import unwrap_model

options = json.loads(sys.argv[1])
kill_at, out = options.pop("kill_at"), options.pop("out")
batches = 0

def count(trainer):
    global batches
    batches += 1
    if batches == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)

def dump(trainer):
    state = dict(model=unwrap_model(trainer.model).state_dict(), ema=trainer.ema.ema.state_dict(),
                 optimizer=trainer.optimizer.state_dict(), updates=trainer.ema.updates,
                 distill=trainer.distiller.state(waiting=True) if trainer.distiller else {},
                 extensions=trainer.extensions.state())
    torch.save(state, out)

model = QuantYOLO(options.pop("start"))
model.add_callback("on_train_batch_end", count)
model.add_callback("on_train_end", dump)
model.train(**options)
"""
RUN: dict[str, Any] = {
    "imgsz": 32, "batch": 4, "nbs": 12, "epochs": 4, "warmup_epochs": 1, "amp": False, "plots": False, "workers": 0,
    "seed": 3, "close_mosaic": 1, "lr0": 0.002, "name": "run", "qreg": {"bits": 4, "method": "lsq"}, "device": "cpu",
}  # fmt: skip
"""Three batches wait for each optimizer step and an epoch has two: gradients cross the boundaries. Mosaic is on."""


def _child(folder: Path, kill_at: int | None, **options: Any) -> subprocess.CompletedProcess[str]:
    settings = {**options, "kill_at": kill_at, "out": str(folder / "state.pt")}
    return run_forked(CHILD, json.dumps(settings), env={"QREG_YOLO_THREADS": "1"})


def _train(folder: Path, data: Path, kill_at: int | None = None, **more: Any) -> None:
    folder.mkdir(exist_ok=True)
    result = _child(folder, kill_at, **{"start": TINY, **RUN, "data": str(data), "project": str(folder), **more})
    assert result.returncode == (0 if kill_at is None else -signal.SIGKILL), result.stderr[-2000:]


def _resume(folder: Path, data: Path) -> str:
    last = str(folder / "run" / "weights" / "last.pt")
    result = _child(folder, None, start=last, resume=last, data=str(data))
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout + result.stderr


def _assert_equal(one: Any, two: Any, where: str = "") -> None:
    assert type(one) is type(two), where
    if isinstance(one, torch.Tensor):
        assert one.dtype == two.dtype, where
        assert torch.equal(one, two), f"{where}: differs by up to {(one.float() - two.float()).abs().max()}"
    elif isinstance(one, dict):
        assert list(one) == list(two), where
        for key in one:
            _assert_equal(one[key], two[key], f"{where}/{key}")
    elif isinstance(one, list):
        assert len(one) == len(two), where
        for index, pair in enumerate(zip(one, two, strict=True)):
            _assert_equal(*pair, where=f"{where}/{index}")
    else:
        assert one == two, where


def quantizers(layer: Any) -> list[Any]:
    return [layer.weight_fake_quant, layer.input_fake_quant]


def _epochs(folder: Path) -> list[list[str]]:
    """Returns the rows of results.csv without the time, which differs."""
    lines = (folder / "run" / "results.csv").read_text().splitlines()
    return [[cell for column, cell in enumerate(line.split(",")) if column != 1] for line in lines]


def test_a_run_is_resumed_across_its_stages(tiny_data: Path, tmp_path: Path) -> None:
    """Full precision in the first epoch, 8 bits in the second, killed in the third: 4 bits."""
    quant = {"bits": 4, "method": "lsq", "stages": "0.25:fp32,0.25:w8a8"}
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    _train(straight, tiny_data, qreg=quant)
    _train(resumed, tiny_data, kill_at=5, qreg=quant)
    interrupted, _ = load_weights(resumed / "run" / "weights" / "last.pt")
    assert {layer.weight_fake_quant.bits for layer in quantized_layers(interrupted).values()} == {8}
    assert "not bit for bit" not in _resume(resumed, tiny_data)
    one, two = (torch.load(folder / "state.pt", weights_only=True) for folder in (straight, resumed))
    _assert_equal(one, two)
    assert _epochs(straight) == _epochs(resumed)
    for name in ("best.pt", "last.pt"):
        model, _ = load_weights(straight / "run" / "weights" / name)
        widths = Counter(layer.weight_fake_quant.bits for layer in quantized_layers(model).values())
        assert set(widths) == {4, 8}
        assert widths[4] > widths[8]


def test_a_single_epoch_has_the_widths_that_were_asked_for(tiny_data: Path, tmp_path: Path) -> None:
    _train(tmp_path, tiny_data, epochs=1, qreg={"bits": 4, "stages": "0.5:fp32", "first_last_bits": "same"})
    model, _ = load_weights(tmp_path / "run" / "weights" / "last.pt")
    assert {(q.bits, q.active) for layer in quantized_layers(model).values() for q in quantizers(layer)} == {(4, True)}


@pytest.mark.parametrize("optimizer", ["SGD", pytest.param("AdamW", marks=pytest.mark.slow)])
def test_a_killed_and_resumed_run_equals_a_straight_one(optimizer: str, tiny_data: Path, tmp_path: Path) -> None:
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    _train(straight, tiny_data, optimizer=optimizer)
    _train(resumed, tiny_data, kill_at=5, optimizer=optimizer)  # in the third epoch
    printed = _resume(resumed, tiny_data)
    assert "from epoch 3 to 4" in printed
    assert "not bit for bit" not in printed
    one, two = (torch.load(folder / "state.pt", weights_only=True) for folder in (straight, resumed))
    _assert_equal(one, two)
    assert one["updates"] > 0
    assert _epochs(straight) == _epochs(resumed)
    leftover = {path.name for path in (resumed / "run" / "weights").iterdir()}
    assert leftover == {"best.pt", "last.pt"}, "a finished run needs no sidecar"


def test_a_run_that_holds_oscillating_weights_is_resumed_too(tiny_data: Path, tmp_path: Path) -> None:
    held = {"freeze_codes": 0.005, "dampen": 0.01, "transition_rate": 0.2, "transition_eta": 5.0}
    qreg = {"bits": 3, "method": "lsq", "log_noise": True, "val_every": 3, "oscillation": held}
    more = {"qreg": qreg, "batch": 2, "nbs": 6, "lr0": 0.02, "epochs": 3}
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    _train(straight, tiny_data, **more)
    _train(resumed, tiny_data, kill_at=10, **more)  # in the third epoch
    sidecar = torch.load(resumed / "run" / "weights" / resume.NAME, weights_only=True)
    assert sidecar["batches_since_step"] > 0
    assert sidecar["extensions"]["oscillation"].keys() >= {"codes/model.1.conv", "transition/w3"}
    _resume(resumed, tiny_data)
    one, two = (torch.load(folder / "state.pt", weights_only=True) for folder in (straight, resumed))
    _assert_equal(one, two)
    assert any(mask.any() for name, mask in one["extensions"]["oscillation"].items() if name.startswith("frozen/"))
    assert _epochs(straight) == _epochs(resumed)
    final = torch.load(resumed / "run" / "weights" / "last.pt", weights_only=False)
    assert not any("frozen" in name or "codes" in name for name in final["model"].state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(6))
def test_killed_anywhere_and_closed_mosaic(trial: int, tiny_data: Path, tmp_path: Path) -> None:
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    more = {"close_mosaic": 2, "epochs": 5, "batch": 2, "nbs": 10}
    _train(straight, tiny_data, **more)
    _train(resumed, tiny_data, kill_at=random.Random(trial).randrange(5, 20), **more)
    _resume(resumed, tiny_data)
    _assert_equal(*(torch.load(folder / "state.pt", weights_only=True) for folder in (straight, resumed)))


@pytest.mark.slow
def test_without_its_sidecar_a_run_goes_on_and_says_that_it_differs(tiny_data: Path, tmp_path: Path) -> None:
    _train(tmp_path, tiny_data, kill_at=3, epochs=2)
    (tmp_path / "run" / "weights" / resume.NAME).write_bytes(b"not a sidecar")
    assert "not bit for bit" in _resume(tmp_path, tiny_data)


def test_a_sidecar_belongs_to_one_checkpoint(tmp_path: Path) -> None:
    last = tmp_path / "last.pt"
    last.write_bytes(b"epoch 1")
    state = {"version": resume.VERSION, "epoch": 1, "model": {"w": torch.ones(2)}}
    resume.write_next(last, files.sha256(last), state)
    resume.promote(last)
    assert resume.read(last)["epoch"] == 1
    new = tmp_path / "new"
    new.write_bytes(b"epoch 2")
    resume.write_next(last, files.sha256(new), {**state, "epoch": 2})  # killed here: last.pt is still epoch 1
    assert resume.read(last)["epoch"] == 1
    files.replace(new, last)  # killed here: the sidecar has not taken its place yet
    assert resume.read(last)["epoch"] == 2
    resume.promote(last)
    assert resume.read(last)["epoch"] == 2
    last.write_bytes(b"of another run")
    assert resume.read(last) is None
    last.with_name(resume.NAME).write_bytes(b"damaged")
    assert resume.read(last) is None


def test_results_are_as_they_were_at_the_checkpoint(tmp_path: Path) -> None:
    table = tmp_path / "results.csv"
    table.write_text("epoch,time\n1,2.5\n2,5.12346e-05\n3,7.")  # the third epoch was not saved
    resume.rewrite_results(table, {"epoch": [1, 2], "time": [2.5, 5.12346e-05]})
    assert table.read_text() == "epoch,time\n1,2.5\n2,5.12346e-05\n"
    resume.rewrite_results(table, {})
    assert table.read_text() == "epoch,time\n1,2.5\n2,5.12346e-05\n"
