"""Checkpoints load without executing anything: ours, Ultralytics', and those that try."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from copy import copy, deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from ultralytics.nn.tasks import DetectionModel, SegmentationModel, yaml_model_load
from ultralytics.utils import IterableSimpleNamespace

from qreg_yolo.detect import QuantDetectionModel, QuantYOLO
from qreg_yolo.detect.checkpoint import load_start, load_weights
from qreg_yolo.detect.model_yaml import check_model_yaml
from qreg_yolo.detect.safe_load import OUR_CLASSES, check_file
from qreg_yolo.errors import ModelError, WeightsError
from qreg_yolo.quant.spec import METHODS
from tests import ROOT
from tests.detect.conftest import Trained
from tests.detect.factories import build
from tests.io.checkpoint_factories import Evil

pytestmark = pytest.mark.usefixtures("torch_on_one_thread")


# ------------------------------------------------------------------------------------------------ what loads

STOCK = """
import sys
from ultralytics import YOLO
try:
    YOLO(sys.argv[1])
except TypeError as error:
    print("refused" if "supported" in str(error) else error)
import qreg_yolo.detect
print(type(YOLO(sys.argv[1]).model).__name__)
"""


def test_ultralytics_own_safe_loading_takes_our_checkpoints_once_we_are_imported(trained: Trained) -> None:
    run = subprocess.run(
        [sys.executable, "-c", STOCK, str(trained.best)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), "ULTRALYTICS_SAFE_LOAD": "1"},
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["refused", "QuantDetectionModel"]


@pytest.mark.parametrize(
    "request_",
    [{"bits": 2, "per_channel": True}, {"bits": 32}, *({"bits": 4, "method": name} for name in METHODS)],
    ids=str,
)
def test_checkpoints_of_every_method_load(request_: dict[str, Any], tmp_path: Path) -> None:
    model = build(**request_)
    path = tmp_path / "a.pt"
    torch.save({"model": model, "train_args": {"imgsz": 64}}, path)
    loaded, checkpoint = load_weights(path)
    assert type(loaded) is QuantDetectionModel
    assert checkpoint["train_args"] == {"imgsz": 64}
    assert loaded.args["imgsz"] == 64
    assert not loaded.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_the_list_has_no_class_that_checkpoints_lack(quantized: QuantDetectionModel) -> None:
    """Minimal: modules of the methods, the specification that these hold, and linear layers of other models."""
    found = {type(module) for module in quantized.modules()}
    for method in METHODS:
        found |= {type(module) for module in build(method=method, head="anchor").modules()}
    assert {cls.__name__ for cls in OUR_CLASSES if cls not in found} == {"QuantLinear", "QuantizerSpec"}


def test_checkpoints_of_ultralytics_load(plain: DetectionModel, tmp_path: Path) -> None:
    model = deepcopy(plain).half()
    model.args = IterableSimpleNamespace(imgsz=32)  # in checkpoints of unfinished runs
    path = tmp_path / "a.pt"
    torch.save({"model": None, "ema": model, "best_fitness": np.float64(0.5), "opt": Path("runs")}, path)
    loaded, _ = load_weights(path)
    assert type(loaded) is DetectionModel
    assert loaded.args["imgsz"] == 640
    assert all(tensor.dtype != torch.float16 for tensor in loaded.state_dict().values())
    assert torch.equal(loaded.state_dict()["model.0.conv.weight"], model.state_dict()["model.0.conv.weight"].float())


# ------------------------------------------------------------------------------------------------ what does not


class Call:
    """Unpickled as the value of a call."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.reduced = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


HOSTILE: dict[str, Callable[[Path], Any]] = {
    "mkdir": Evil,
    "eval": lambda marker: Call(eval, f"__import__('os').mkdir({str(marker)!r})"),
    "getattr": lambda marker: Call(getattr, Path(marker), "mkdir"),
    "constructor": lambda _: Call(DetectionModel, "yolov5n.yaml"),
    "our constructor": lambda _: Call(QuantDetectionModel, "yolov5n.yaml"),
    "layer constructor": lambda _: Call(nn.Conv2d, 3, 3, 1),
    "function of torch": lambda marker: Call(torch.load, str(marker)),
    "hook": lambda _: nn.modules.module.register_module_forward_hook,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_files_that_want_more_are_refused(name: str, tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "a.pt"
    torch.save({"model": None, "train_args": {}, "extra": HOSTILE[name](marker)}, path)
    for load in (load_weights, load_start, check_file, lambda path: QuantYOLO(str(path))):
        with pytest.raises(WeightsError, match="Nothing of it was executed"):
            load(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "content", [b"\x80\x02]0}.", b"\x80\x02}X\x05\x00\x00\x00modelK\x05s."], ids=["opcode", "number"]
)
def test_pickles_that_torch_does_not_write(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as file:
        for name, data in (("data.pkl", content), ("version", b"3"), ("byteorder", b"little")):
            file.writestr(f"archive/{name}", data)
    for load in (load_weights, load_start):
        with pytest.raises(WeightsError, match=r"a\.pt"):
            load(path)


def test_the_files_above_are_hostile(tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "a.pt"
    torch.save({"extra": Evil(marker)}, path)
    torch.load(path, weights_only=False)
    assert marker.exists()


def test_models_of_other_tasks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"model": SegmentationModel("yolov8n-seg.yaml", nc=2, verbose=False)}, path)
    with pytest.raises(WeightsError, match="SegmentationModel"):
        load_weights(path)


def test_a_model_quantized_by_ultralytics_is_refused(plain: DetectionModel, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"model": plain, "modelopt": {"mode": 1}}, path)
    with pytest.raises(WeightsError, match=r"quantize=8.*--bits"):
        load_weights(path)


@pytest.mark.parametrize("state", [{"_modules": {}}, {"yaml": 5}, {"yaml": {}}])
def test_objects_without_the_state_of_their_class_are_refused(
    state: dict[str, Any], plain: DetectionModel, tmp_path: Path
) -> None:
    model = copy(plain)
    model.__dict__ = {**plain.__dict__, **state}
    path = tmp_path / "a.pt"
    torch.save({"model": model}, path)
    with pytest.raises(WeightsError, match=str(path)):
        load_weights(path)


EVALUATED = [
    ("activation", "__import__('os').mkdir({marker!r})"),
    ("activation", "nn.ReLU(__import__('os').mkdir({marker!r}))"),
    ("activation", "[nn.ReLU(), __import__('os').mkdir({marker!r})][0]"),
    ("activation", "nn.ReLU().register_forward_hook(print)"),
    ("activation", "nn.Linear(1, 1)"),
    ("activation", ["nn.ReLU()"]),
    ("layer", "check_requirements"),
    ("layer", "torch_safe_load"),
    ("layer", "nn.init"),
    ("layer", "torchvision.ops.nms"),
    ("layer", "DetectionModel"),
    ("layer", "nn.Missing"),
    ("arguments", [{"a": 1}]),
    ("row", [-1, 1, "Conv"]),
    ("row", "Conv"),
    ("backbone", None),
]


def hostile_yaml(kind: str, value: Any, marker: Path) -> dict[str, Any]:
    description = yaml_model_load("yolov5n.yaml")
    value = value.format(marker=str(marker)) if isinstance(value, str) else value
    if kind in ("activation", "backbone"):
        description[kind] = value
    elif kind == "row":
        description["backbone"][0] = value
    else:
        description["backbone"][0][{"layer": 2, "arguments": 3}[kind]] = value
    return description


@pytest.mark.parametrize(("kind", "value"), EVALUATED)
def test_model_descriptions_that_would_be_executed(kind: str, value: Any, tmp_path: Path) -> None:
    """Ultralytics evaluates the activation, and takes a layer's name from its own globals."""
    marker = tmp_path / "marker"
    description = hostile_yaml(kind, value, marker)
    with pytest.raises(ModelError, match=r"x\.yaml"):
        check_model_yaml(description, "x.yaml")
    with pytest.raises(ModelError):
        QuantDetectionModel(description, verbose=False)
    assert not marker.exists()


def test_a_checkpoint_with_such_a_description(plain: DetectionModel, tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "a.pt"
    model = copy(plain)
    model.__dict__ = {**plain.__dict__, "yaml": hostile_yaml(*EVALUATED[0], marker)}
    torch.save({"model": model}, path)
    with pytest.raises(WeightsError, match=r"a\.pt.*activation"):
        load_weights(path)
    assert not marker.exists()


def test_the_host_does_execute_them(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    with pytest.raises(TypeError, match="NoneType"):  # what mkdir returns is no activation
        DetectionModel(hostile_yaml(*EVALUATED[0], marker), verbose=False)
    assert marker.exists()


@pytest.mark.parametrize("text", ["nn.SiLU()", "torch.nn.LeakyReLU(0.1)", "nn.ReLU(inplace=True)", " nn.Mish() "])
def test_activations_that_are_fine(text: str) -> None:
    check_model_yaml({**yaml_model_load("yolov5n.yaml"), "activation": text}, "x.yaml")


def test_every_model_of_the_host_passes() -> None:
    import ultralytics

    paths = sorted((Path(ultralytics.__file__).parent / "cfg" / "models").rglob("*.yaml"))
    assert len(paths) > 50
    for path in paths:
        check_model_yaml(yaml_model_load(path), path.name)
