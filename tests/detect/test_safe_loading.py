"""Checkpoints load without executing anything: ours, the host's, classic YOLOv5's, and those that try."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from qreg_yolo.detect.classic import ClassicWeights
from qreg_yolo.detect.errors import ModelError
from qreg_yolo.detect.model_yaml import check_model_yaml
from qreg_yolo.detect.safe_load import OUR_CLASSES, check_file
from qreg_yolo.detect.trainer import QuantDetectionTrainer
from qreg_yolo.quant import quantized_layers, uninitialized_quantizers
from qreg_yolo.quant.spec import METHODS
from qreg_yolo.training.tensor_file import WeightsError

from ..checkpoint_files import Evil, classic_packages, write_classic
from .conftest import SETTINGS, Trained
from .test_model import build, calibrated

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module", autouse=True)
def _torch_on_one_thread() -> Iterator[None]:
    """Many small tensors: on a busy machine more threads make them much slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@contextmanager
def host_warnings() -> Iterator[list[str]]:
    """Collects what the host's logger says."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("ultralytics")
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)


@pytest.fixture(scope="module")
def plain() -> DetectionModel:
    """Returns a float model of the host; copy it to change it."""
    torch.manual_seed(1)
    return DetectionModel("yolov5n.yaml", nc=4, verbose=False)


@pytest.fixture(scope="module")
def quantized() -> QuantDetectionModel:
    """Returns a calibrated W4A4 model; copy it to change it."""
    return calibrated(bits=4)


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
        found |= {type(module) for module in build(method=method).modules()}
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
    """The host evaluates the activation, and takes a layer's name from its own globals."""
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


# ------------------------------------------------------------------------------------------------ classic YOLOv5


@pytest.fixture(scope="module")
def classic(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """Returns a user-trained file of classic YOLOv5n, and its tensors."""
    path = tmp_path_factory.mktemp("classic") / "mine.pt"
    return path, write_classic(path)


def test_classic_weights_are_all_read(classic: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, saved = classic
    assert "models" not in sys.modules
    start = load_start(path)
    assert isinstance(start, ClassicWeights)
    expected = {name: tensor.float() for name, tensor in saved.items() if tensor.is_floating_point()}
    assert start.tensors.keys() == expected.keys()
    assert all(torch.equal(start.tensors[name], tensor) for name, tensor in expected.items())
    assert "model.24.anchors" in expected
    assert "model.24.grid" not in expected


@pytest.mark.parametrize("bits", [4, 32])
def test_classic_weights_go_where_name_and_shape_fit(bits: int, classic: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, saved = classic
    model = build(bits=bits, pretrained=True)
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with host_warnings() as said:
        model.load(load_start(path))
    assert said == ["Transferred 285 of 358 tensors from 'mine.pt' (classic YOLOv5); untrained: model.24 (73)"]
    same = 0
    for name, tensor in model.state_dict().items():
        taken = name in saved and tensor.is_floating_point()
        assert torch.equal(tensor, saved[name].float() if taken else fresh[name]), name
        same += taken
    assert same == 285
    assert len(quantized_layers(model)) == (75 if bits == 4 else 0)


def test_ranges_of_other_weights_are_forgotten(
    classic: tuple[Path, dict[str, torch.Tensor]], quantized: QuantDetectionModel
) -> None:
    model = deepcopy(quantized)
    model.load(load_start(classic[0]), verbose=False)
    assert len(uninitialized_quantizers(model)) == 150


def test_classic_weights_of_another_size_are_an_error(
    classic: tuple[Path, dict[str, torch.Tensor]], plain: DetectionModel
) -> None:
    with pytest.raises(WeightsError, match=r"\[16, 3, 6, 6\] there and \[32, 3, 6, 6\] here.*--model"):
        build(model="yolov5s.yaml", bits=4).load(load_start(classic[0]))
    with pytest.raises(WeightsError, match=r"has 0 tensors"):
        ClassicWeights(Path("empty.pt"), {}).fitting(plain.state_dict())


def test_classic_files_are_only_to_start_from(classic: tuple[Path, dict[str, torch.Tensor]]) -> None:
    for load in (load_weights, lambda path: QuantYOLO(str(path))):
        with pytest.raises(WeightsError, match=r"anchor head.*--weights"):
            load(classic[0])


def test_hostile_classic_files_give_their_tensors_and_nothing_else(tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "evil.pt"
    saved = write_classic(path, extra=Evil(marker), opt=HOSTILE["eval"](marker))
    start = load_start(path)
    assert isinstance(start, ClassicWeights)
    assert torch.equal(start.tensors["model.0.conv.weight"], saved["model.0.conv.weight"].float())
    assert not marker.exists()


@pytest.mark.parametrize("content", [{}, {"ema": None}, {"ema": 3, "model": 3}], ids=str)
def test_classic_files_without_a_model(content: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with classic_packages() as packages:
        packages["models.common"].Conv = type("Conv", (), {"__module__": "models.common"})
        torch.save({"hyp": packages["models.common"].Conv(), **content}, path)
    with pytest.raises(WeightsError, match="no model"):
        load_start(path)


def test_training_from_python_starts_from_a_classic_file(
    classic: tuple[Path, dict[str, torch.Tensor]], tiny_data: Path, tmp_path: Path
) -> None:
    path, saved = classic
    seen: list[torch.Tensor] = []
    model = QuantYOLO("yolov5n.yaml")
    model.add_callback("on_train_start", lambda t: seen.append(t.model.model[1].conv.weight.detach().clone()))
    with host_warnings() as said:
        model.train(
            data=str(tiny_data), qreg={"bits": 4}, pretrained=str(path), epochs=1, project=str(tmp_path), name="run",
            val=False, **SETTINGS,
        )  # fmt: skip
    assert sum("Transferred 285 of 358" in line for line in said) == 1
    assert torch.equal(seen[0], saved["model.1.conv.weight"].float())


def test_a_loaded_model_takes_other_weights(
    classic: tuple[Path, dict[str, torch.Tensor]], trained: Trained, tiny_data: Path, tmp_path: Path
) -> None:
    """The host would unpickle the file itself there."""

    class Stop(Exception):
        pass

    seen: list[torch.nn.Module] = []

    def stop(trainer: Any) -> None:
        seen.append(trainer.model)
        raise Stop

    model = QuantYOLO(str(trained.best))
    model.add_callback("on_train_start", stop)
    with pytest.raises(Stop):
        model.train(
            data=str(tiny_data), qreg={"bits": 4}, pretrained=str(classic[0]), epochs=1, project=str(tmp_path),
            name="run", **SETTINGS,
        )  # fmt: skip
    assert torch.equal(seen[0].model[1].conv.weight, classic[1]["model.1.conv.weight"].float())
    assert len(quantized_layers(seen[0])) == 75


# ------------------------------------------------------------------------------------------------ other quantization


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"quantize": 8}, "bits"),
        ({"quantize": "w8a16"}, "bits"),
        ({"int8": True}, "bits"),
        ({"half": True}, "float32"),
        ({"quantize": 16}, "float32"),
    ],
    ids=str,
)
def test_the_hosts_own_quantization_is_refused(arguments: dict[str, Any], words: str, trained: Trained) -> None:
    model = QuantYOLO(str(trained.best))
    for call in (model.val, model.export, model.train, lambda **more: model.predict(torch.zeros(1, 3, 32, 32), **more)):
        with pytest.raises(ValueError, match=words):
            call(**arguments)
    with pytest.raises(ValueError, match=words):
        QuantDetectionTrainer(overrides={"model": "yolov5n.yaml", "qreg": {"bits": 4}, **arguments})


def test_what_switches_it_off_is_taken(trained: Trained) -> None:
    model = QuantYOLO(str(trained.best))
    result = model.predict(torch.rand(1, 3, 32, 32), imgsz=32, verbose=False, half=False, int8=False)
    assert len(result) == 1


def test_a_model_of_the_host_that_takes_quantized_weights_is_warned_about(
    plain: DetectionModel, quantized: QuantDetectionModel
) -> None:
    """What Ultralytics' own trainer does with our checkpoint."""
    source, target = deepcopy(quantized), deepcopy(plain)
    with host_warnings() as said:
        source.info(verbose=True)
        source.fuse()
        build(bits=4).load(source, verbose=False)
        build(bits=2).load(source, verbose=False)
        assert not [line for line in said if "full precision" in line]
        target.load(source)
    warnings = [line for line in said if "full precision" in line]
    assert len(warnings) == 1
    assert "qreg-yolo train --weights" in warnings[0]
    assert torch.equal(target.model[1].conv.weight, source.model[1].conv.weight)
