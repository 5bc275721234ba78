"""One small detector, trained once for all tests of the adapter, and what was seen while it trained."""

from __future__ import annotations

import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from torch import nn
from ultralytics.nn.tasks import DetectionModel

from qreg_yolo.datasets.demo.write import write_demo_data
from qreg_yolo.detect import QuantDetectionModel
from tests import TINY
from tests.process_helpers import made_once, preload

preload("qreg_yolo.detect.robustness", "qreg_yolo.detect.runs")

SETTINGS: dict[str, Any] = {
    "imgsz": 64, "batch": 4, "nbs": 4, "optimizer": "AdamW", "lr0": 0.002, "warmup_epochs": 1, "amp": False,
    "plots": False, "mosaic": 0.0, "hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0, "translate": 0.0, "scale": 0.0,
    "fliplr": 0.0, "cos_lr": True,
}  # fmt: skip
"""Fits eight images in some sixteen epochs."""


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Small tensors gain nothing from a second thread; tests of the thread count set their own."""
    os.environ["QREG_YOLO_THREADS"] = "1"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    del os.environ["QREG_YOLO_THREADS"]


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a data YAML of eight images that are training and validation set at once (to be fitted, not learned)."""
    folder = tmp_path_factory.mktemp("tiny") / "set"
    path = write_demo_data(folder, n_train=8, n_val=4)
    text = path.read_text(encoding="utf-8").replace("images/val", "images/train")
    same = path.with_name("same.yaml")
    same.write_text(text, encoding="utf-8")
    return same


@dataclass
class CallCounter:
    """Counts network passes and quantizer calls by phase, through torch's global forward hook."""

    phase: str = ""
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    threads: dict[str, int] = field(default_factory=dict)

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        kind = type(module).__name__
        if kind in ("Detect", "AnchorDetect"):
            self.calls[self.phase, "pass"] += 1
            self.threads[self.phase] = torch.get_num_threads()
        elif "WeightQuantizer" in kind:
            self.calls[self.phase, "weight"] += 1
        elif "InputQuantizer" in kind:
            self.calls[self.phase, "input"] += 1

    def per_pass(self, phase: str) -> tuple[float, float]:
        """Returns weight and input quantizer calls per network pass."""
        passes = self.calls[phase, "pass"]
        assert passes, f"no network pass in phase {phase!r}"
        return self.calls[phase, "weight"] / passes, self.calls[phase, "input"] / passes


@pytest.fixture
def counter() -> Iterator[CallCounter]:
    """Counts during one test."""
    found = CallCounter()
    handle = nn.modules.module.register_module_forward_hook(found)
    yield found
    handle.remove()


@dataclass
class Trained:
    """A finished run."""

    save_dir: Path
    best_map: tuple[float, float]
    """mAP50 and mAP50-95 of ``final_eval`` (best.pt)."""
    epochs: list[tuple[float, float]]
    """mAP50 and mAP50-95 of the validations in training."""
    counter: CallCounter
    model: Any
    optimizer_groups: list[dict[str, Any]]
    ema_flags: list[bool]
    ema_state: dict[str, torch.Tensor]
    """The averaged model's tensors at the end, before anything was written to disk."""

    @property
    def best(self) -> Path:
        return self.save_dir / "weights" / "best.pt"

    @property
    def last(self) -> Path:
        return self.save_dir / "weights" / "last.pt"


@dataclass
class Watch:
    """Callbacks of a training that save and validate every so many epochs, and note what happens."""

    every: int
    disturbed_epochs: int | None
    """Disturb the averaged model in the last of so many epochs; None: never."""
    counter: CallCounter = field(default_factory=CallCounter)
    epochs: list[tuple[float, float]] = field(default_factory=list)
    groups: list[dict[str, Any]] = field(default_factory=list)
    ema_flags: list[bool] = field(default_factory=list)

    def start(self, trainer: Any) -> None:
        self.counter.phase = "train"
        self.groups = [dict(group) for group in trainer.optimizer.param_groups]
        self.ema_flags = [bool(v) for k, v in trainer.ema.ema.state_dict().items() if k.endswith(".initialized")]
        for module in trainer.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.3  # 32 steps have to do

    def epoch_start(self, trainer: Any) -> None:
        self.counter.phase = "train"
        trainer.args.save = (trainer.epoch + 1) % self.every == 0

    def epoch_trained(self, trainer: Any) -> None:
        self.counter.phase = "val"
        if trainer.epoch + 1 == self.disturbed_epochs:
            trainer.ema.ema.model[0].bn.weight.mul_(0.5)

    def epoch_validated(self, trainer: Any) -> None:
        if self.counter.phase != "final_eval" and trainer.args.save:
            metrics = trainer.validator.metrics.box
            self.epochs.append((float(metrics.map50), float(metrics.map)))


def train_tiny(
    data: Path,
    folder: Path,
    qreg: dict[str, Any],
    *,
    epochs: int,
    every: int = 1,
    model_yaml: str = TINY,
    worse_at_the_end: bool = False,
    **more: Any,
) -> Trained:
    """Trains a detector on the tiny set, validates and saves every so many epochs, and returns what was seen.

    With `worse_at_the_end`, the averaged model is disturbed before its last validation: the best epoch is another.
    """
    from qreg_yolo.detect import QuantYOLO
    from qreg_yolo.detect.trainer import QuantDetectionTrainer

    watch = Watch(every, epochs if worse_at_the_end else None)
    model = QuantYOLO(model_yaml)
    for event, callback in (
        ("on_train_start", watch.start),
        ("on_train_epoch_start", watch.epoch_start),
        ("on_train_epoch_end", watch.epoch_trained),
        ("on_fit_epoch_end", watch.epoch_validated),
    ):
        model.add_callback(event, callback)

    class Watched(QuantDetectionTrainer):
        def final_eval(self) -> None:
            watch.counter.phase = "final_eval"
            super().final_eval()

    handle = nn.modules.module.register_module_forward_hook(watch.counter)
    try:
        metrics = model.train(
            trainer=Watched, data=str(data), qreg={**qreg, "val_every": every}, epochs=epochs, project=str(folder),
            name="run", **{**SETTINGS, **more},
        )  # fmt: skip
    finally:
        handle.remove()
    return Trained(
        save_dir=Path(model.trainer.save_dir),
        best_map=(float(metrics.box.map50), float(metrics.box.map)),
        epochs=watch.epochs,
        counter=watch.counter,
        model=model.model,
        optimizer_groups=watch.groups,
        ema_flags=watch.ema_flags,
        ema_state=model.trainer.ema.ema.state_dict(),
    )


@pytest.fixture(scope="session")
def trained(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Returns a W4A4 LSQ run that has fitted something (its mAP is not zero), trained once for all processes."""

    def train(folder: Path) -> Trained:
        run = train_tiny(
            tiny_data, folder, {"bits": 4, "method": "lsq"}, epochs=16, every=4, lr0=0.004, worse_at_the_end=True
        )
        assert run.best_map[0] > 0.02, "the run has learned nothing, so agreement of its numbers would prove nothing"
        return run

    return made_once(tmp_path_factory, "detector", train)


@pytest.fixture(scope="session")
def baseline(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Returns an fp32 run that has fitted something, trained once for all processes."""

    def train(folder: Path) -> Trained:
        run = train_tiny(tiny_data, folder, {"bits": 32}, epochs=16, every=4, lr0=0.004)
        assert run.best_map[1] > 0.02, "the run has learned nothing"
        return run

    return made_once(tmp_path_factory, "baseline", train)


@pytest.fixture
def several_shapes(tiny_data: Path, tmp_path: Path) -> Path:
    """Returns a private copy of eight images of several shapes, without any cache."""
    folder = tmp_path / "set"
    shutil.copytree(tiny_data.parent, folder, ignore=shutil.ignore_patterns("*.cache"))
    yaml = folder / tiny_data.name
    yaml.write_text(yaml.read_text().replace(str(tiny_data.parent), str(folder)))
    images = sorted((folder / "images" / "train").iterdir())
    for number, path in enumerate(images):
        picture = cv2.imread(str(path))
        path.unlink()
        height, width = picture.shape[:2]
        shape = (width - 8 * (number % 3), height - 16 * (number % 2))
        cv2.imwrite(str(path.with_suffix(".png")), cv2.resize(picture, shape))
    return yaml


@pytest.fixture
def torch_on_one_thread() -> Iterator[None]:
    """Many small tensors: on a busy machine more threads make them much slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@contextmanager
def ultralytics_warnings() -> Iterator[list[str]]:
    """Collects what Ultralytics' logger says."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("ultralytics")
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)


@pytest.fixture(scope="session")
def plain() -> DetectionModel:
    """Returns a float model of Ultralytics; copy it to change it."""
    torch.manual_seed(1)
    return DetectionModel(TINY, nc=4, verbose=False)


@pytest.fixture(scope="session")
def quantized() -> QuantDetectionModel:
    """Returns a calibrated W4A4 model; copy it to change it."""
    from tests.detect.factories import calibrated

    return calibrated(bits=4)
