"""Short runs with a teacher: columns, checkpoints, resuming bit for bit, and a teacher that is another file by then."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn
from ultralytics.utils import YAML
from ultralytics.utils.torch_utils import unwrap_model

from qreg_yolo.config.detection import load, resolve
from qreg_yolo.detect import QuantYOLO, runs, save_safetensors
from qreg_yolo.detect.checkpoint import load_weights
from qreg_yolo.errors import WeightsError
from qreg_yolo.io import files, records
from tests import TINY
from tests.detect.conftest import SETTINGS, Trained
from tests.detect.factories import END_TO_END, calibrated
from tests.detect.test_resume import _assert_equal, _child, _epochs, _resume, _train

ONE_EPOCH: dict[str, Any] = {**SETTINGS, "epochs": 1, "imgsz": 32, "name": "run", "workers": 0, "device": "cpu"}


def teacher(path: Path, data: Path, **request: Any) -> Path:
    """Writes a detector of the data's classes, untrained but with BatchNorm's statistics of some images."""
    names = YAML.load(data)["names"]
    model = calibrated(bits=32, nc=len(names), **request)
    model.names = names
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model.train()(torch.rand(8, 3, 64, 64))
    save_safetensors(model.eval(), path)
    return path


def train(path: Path, data: Path, **more: Any) -> Any:
    """Trains one epoch with a teacher, and returns the trainer."""
    model = QuantYOLO(more.pop("model", TINY))
    losses = more.pop("losses", "logits")
    qreg = {"bits": 4, "distill": {"teacher": str(path), "losses": losses}, **more.pop("qreg", {})}
    model.train(data=str(data), qreg=qreg, **{**ONE_EPOCH, "project": str(path.parent), **more})
    return model.trainer


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_from_the_configuration(trained: Trained, tiny_data: Path, tmp_path: Path) -> None:
    """The teacher is quantized, the student learns its logits and features; nothing of it is in what the run writes."""
    path = tmp_path / "teacher.pt"
    shutil.copy(trained.best, path)
    arguments = {"project": str(tmp_path), "epochs": 2, "imgsz": 32, "batch": 4, "plots": False}
    base = {"model": TINY, "data": str(tiny_data), "bits": 4}
    for name, options in (("plain", {}), ("taught", {"teacher": str(path), "distill": "both"})):
        runs.train(resolve(None, {**base, **options}, {**arguments, "name": name}))
    plain, taught = tmp_path / "plain", tmp_path / "taught"
    columns = list(rows(plain)[0])
    place = columns.index("train/dfl_loss") + 1
    assert list(rows(taught)[0]) == [*columns[:place], "train/distill_loss", *columns[place:]]
    assert all(float(row["train/distill_loss"]) > 0 for row in rows(taught))
    metrics = set(records.read(taught / "records.csv")["metric"])
    assert metrics - set(records.read(plain / "records.csv")["metric"]) == {"train_distill_loss"}
    config = load(taught / "config.yaml")
    assert config.distill.sha256 == files.sha256(path)
    for name in ("best.pt", "last.pt"):
        own, other = (load_weights(folder / "weights" / name)[0] for folder in (taught, plain))
        assert own.state_dict().keys() == other.state_dict().keys()
        assert own.criterion is None, "the criterion has the teacher"
        sizes = [(folder / "weights" / name).stat().st_size for folder in (taught, plain)]
        assert abs(sizes[0] - sizes[1]) < 10_000, "the teacher's 1.3 MB"
    names = [safe_open(folder / "weights" / "best.safetensors", "pt").keys() for folder in (taught, plain)]
    assert names[0] == names[1]
    assert not (taught / "weights" / "last.resume.pt").exists()
    path.write_bytes(b"another")
    with pytest.raises(WeightsError, match="is another file than at the start of the run"):
        runs.train(config)


@pytest.mark.parametrize(
    "head", ["anchor", pytest.param("anchor_free", marks=pytest.mark.slow), pytest.param("e2e", marks=pytest.mark.slow)]
)
def test_a_killed_and_resumed_run_equals_a_straight_one(head: str, tiny_data: Path, tmp_path: Path) -> None:
    """With a projector: its weights, its momentum and its waiting gradients go through the sidecar."""
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    network = {"model": END_TO_END} if head == "e2e" else {"head": head}
    path = teacher(tmp_path / "teacher.safetensors", tiny_data, **network)
    distill = {"teacher": str(path), "losses": "both", "projector": True}
    more: dict[str, Any] = {"qreg": {"bits": 4, "distill": distill}, "epochs": 3}
    if head == "e2e":
        YAML.save(tmp_path / "tiny-e2e.yaml", {key: value for key, value in END_TO_END.items() if key != "yaml_file"})
        more["start"] = str(tmp_path / "tiny-e2e.yaml")
    else:
        more["qreg"]["head"] = head
    _train(straight, tiny_data, **more)
    _train(resumed, tiny_data, kill_at=3, **more)  # in the second epoch
    last = resumed / "run" / "weights" / "last.pt"
    sidecar = torch.load(last.with_name("last.resume.pt"), weights_only=True)
    assert len(sidecar["distill"]["projector"]) == 12
    assert len(sidecar["distill"]["gradients"]) == 12
    if head == "anchor":
        other = path.rename(tmp_path / "moved")
        gone = _child(resumed, None, start=str(last), resume=str(last), data=str(tiny_data))
        assert gone.returncode != 0
        assert "put it back there" in gone.stderr
        other.rename(path)
    assert "not bit for bit" not in _resume(resumed, tiny_data)
    one, two = (torch.load(folder / "state.pt", weights_only=True) for folder in (straight, resumed))
    assert len(one["distill"]["projector"]) == 12
    _assert_equal(one, two)
    assert _epochs(straight) == _epochs(resumed)
    assert not torch.equal(one["distill"]["projector"]["0.0.weight"], sidecar["distill"]["projector"]["0.0.weight"])


def test_the_averaged_model_keeps_the_plain_criterion(tiny_data: Path, tmp_path: Path) -> None:
    trainer = train(teacher(tmp_path / "t.safetensors", tiny_data), tiny_data, qreg={"distill": None}, val=True)
    assert trainer.distiller is None
    assert "train/distill_loss" not in rows(tmp_path / "run")[0]
    trainer = train(tmp_path / "t.safetensors", tiny_data, name="taught", pretrained=str(tmp_path / "t.safetensors"))
    before, first = rows(tmp_path / "taught")
    assert (before["epoch"], before["train/distill_loss"]) == ("0", "")
    assert float(first["train/distill_loss"]) > 0
    assert unwrap_model(trainer.model).criterion is trainer.distiller
    assert type(trainer.ema.ema.criterion).__name__ == "v8DetectionLoss"
    assert trainer.args.qreg["distill"]["sha256"] == files.sha256(tmp_path / "t.safetensors")


def test_mixed_precision(tiny_data: Path, tmp_path: Path) -> None:
    path = teacher(tmp_path / "t.safetensors", tiny_data)
    for amp in ("fp32", "bf16"):
        train(path, tiny_data, losses="both", amp=amp, name=amp)
    plain, mixed = (float(rows(tmp_path / amp)[0]["train/distill_loss"]) for amp in ("fp32", "bf16"))
    assert mixed != plain
    assert mixed == pytest.approx(plain, rel=0.05)
