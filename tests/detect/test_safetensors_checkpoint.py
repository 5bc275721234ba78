"""The safetensors checkpoint: the same detector bit by bit, no pickle, and a clear error for anything else."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from ultralytics.nn.tasks import DetectionModel, SegmentationModel

from qreg_yolo.detect import QuantDetectionModel, QuantYOLO, load_safetensors, save_safetensors
from qreg_yolo.detect.checkpoint import load_weights
from qreg_yolo.detect.safetensors_checkpoint import HEADER
from qreg_yolo.errors import WeightsError
from qreg_yolo.io import files
from qreg_yolo.quant import quantized_layers, uninitialized_quantizers
from tests import TINY
from tests.detect.conftest import Trained
from tests.detect.factories import END_TO_END, build, calibrated, images


@pytest.fixture(scope="module", autouse=True)
def _torch_on_one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the file of a calibrated W4A4 model of four classes."""
    model = calibrated(bits=4)
    model.names = {0: "disc", 1: "box", 2: "größe", 3: "3"}
    path = tmp_path_factory.mktemp("saved") / "a.safetensors"
    save_safetensors(model, path, {"imgsz": 64, "data": "x.yaml", "seed": 3})
    return path


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns tensors and description of a file, independently of the code under test."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, json.loads(file.metadata()[HEADER])


def assert_same(model: DetectionModel, other: DetectionModel) -> None:
    assert model.state_dict().keys() == other.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert other.state_dict()[name].dtype == tensor.dtype, name
        assert torch.equal(other.state_dict()[name], tensor), name
    assert (other.yaml, other.names, type(other)) == (model.yaml, model.names, type(model))
    assert torch.equal(other.stride, model.stride)


def test_it_is_the_checkpoint_bit_by_bit(trained: Trained, tmp_path: Path) -> None:
    best, checkpoint = load_weights(trained.best)
    path = tmp_path / "best.safetensors"
    save_safetensors(best, path, checkpoint["train_args"])
    model, again = load_weights(path)
    assert_same(best, model)
    assert not uninitialized_quantizers(model)
    assert [layer.plan for layer in quantized_layers(model).values()] == [
        layer.plan for layer in quantized_layers(best).values()
    ]
    assert torch.equal(model(images())[0], best(images())[0])
    assert again["train_args"] == checkpoint["train_args"]
    assert model.args == best.args


def test_it_validates_to_the_same_numbers(trained: Trained, tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    facade = QuantYOLO(str(trained.best))
    save_safetensors(facade.model, path, facade.ckpt["train_args"])
    found = QuantYOLO(str(path)).val(project=str(tmp_path), name="val", plots=False).box
    expected = facade.val(project=str(tmp_path), name="val2", plots=False).box
    assert (found.map50, found.map) == (expected.map50, expected.map)
    assert found.map50 > 0


@pytest.mark.parametrize(
    "request_",
    [
        {"bits": 2, "per_channel": True},
        {"bits": 4, "method": "pact", "activation": "relu"},
        {"bits": 1, "method": "dorefa", "weight_only": True},
        {"bits": 32},
    ],
    ids=str,
)
def test_every_method_comes_back(request_: dict[str, Any], tmp_path: Path) -> None:
    model = build(**request_)
    save_safetensors(model, tmp_path / "a.safetensors")
    assert_same(model, load_safetensors(tmp_path / "a.safetensors")[0])


def test_a_float_model_of_the_host_comes_back(tmp_path: Path) -> None:
    model = DetectionModel(deepcopy(END_TO_END), nc=7, verbose=False)
    save_safetensors(model, tmp_path / "a.safetensors")
    assert_same(model, load_safetensors(tmp_path / "a.safetensors")[0])


def test_the_head_keeps_the_width_of_the_weights_it_was_trained_from(tmp_path: Path) -> None:
    """The class branch of 80 classes is wider; Ultralytics takes it over with the weights."""
    model = build(nc=4, bits=4, pretrained=True)
    model.load(DetectionModel(TINY, nc=80, verbose=False), verbose=False)
    assert model.model[-1].cv3[0][2].in_channels == 80
    save_safetensors(model, tmp_path / "a.safetensors")
    assert_same(model, load_safetensors(tmp_path / "a.safetensors")[0])


def test_the_description(saved: Path) -> None:
    tensors, description = read(saved)
    assert description["names"] == ["disc", "box", "größe", "3"]
    assert description["stride"] == [8, 16, 32]
    assert description["train_args"] == {"imgsz": 64, "data": "x.yaml", "seed": 3}
    assert description["versions"].keys() == {"qreg-yolo", "ultralytics", "torch"}
    assert len(description["model"]["qreg"]["layers"]) == 30
    assert tensors["model.0.conv.weight"].dtype == torch.float32


def test_no_unpickler_is_needed(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a pickle was loaded")

    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(sys.modules["pickle"], "load", refuse)
    monkeypatch.setattr(sys.modules["pickle"], "loads", refuse)
    load_safetensors(saved)


def test_it_is_written_at_once_or_not_at_all(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"the old one")

    def fail(*args: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_safetensors(load_safetensors(saved)[0], path)
    assert path.read_bytes() == b"the old one"
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_what_cannot_be_written_is_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.safetensors"):
        save_safetensors(load_safetensors(saved)[0], tmp_path / "a.pt")
    with pytest.raises(ValueError, match="SegmentationModel"):
        save_safetensors(SegmentationModel("yolov8n-seg.yaml", nc=2, verbose=False), tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_training_goes_on_from_it(saved: Path, tmp_path: Path) -> None:
    facade = QuantYOLO(str(saved))
    assert (facade.task, facade.ckpt_path, facade.overrides["model"]) == ("detect", str(saved), str(saved))
    model = build(bits=4, pretrained=True)
    model.load(facade.model, verbose=False)
    assert not uninitialized_quantizers(model)


# ------------------------------------------------------------------------------------------------ malformed

Edit = Callable[[dict[str, Tensor], dict[str, Any]], Any]


def _set(*keys: Any, value: Any) -> Edit:
    def edit(_: dict[str, Tensor], description: dict[str, Any]) -> None:
        for key in keys[:-1]:
            description = description[key]
        description[keys[-1]] = value

    return edit


def _drop(key: str) -> Edit:
    return lambda _, description: description.pop(key)


EDITS: dict[str, tuple[Edit, str]] = {
    "no tensor": (lambda tensors, _: tensors.pop("model.3.conv.weight"), r"lacks 'model\.3\.conv\.weight'"),
    "one more tensor": (lambda tensors, _: tensors.update(extra=torch.ones(1)), "too much: 'extra'"),
    "shape": (lambda t, _: t.update({"model.3.conv.weight": torch.ones(2, 2)}), r"\[2, 2\].*\[32, 16, 3, 3\]"),
    "width": (lambda tensors, _: tensors.update({"model.7.cv3.0.2.weight": torch.ones(4, 70, 1, 1)}), r"does not fit"),
    "no dimension": (lambda tensors, _: tensors.update({"model.7.cv3.0.2.weight": torch.ones(())}), "cannot be built"),
    "dtype": (lambda tensors, _: tensors.update({"model.3.bn.weight": torch.ones(32).half()}), "float16"),
    "version": (_set("version", value=2), "version 2"),
    "no version": (_drop("version"), "version None"),
    "no model": (_drop("model"), "'model'"),
    "no names": (_drop("names"), "'names'"),
    "names": (_set("names", value={"0": "a"}), "'names'"),
    "too few names": (_set("names", value=["a"]), "1 names for 4 classes"),
    "no stride": (_drop("stride"), "'stride'"),
    "stride": (_set("stride", value=[8, 16, 64]), r"\[8, 16, 64\]"),
    "train_args": (_set("train_args", value=[1]), "'train_args'"),
    "classes": (_set("model", "nc", value=9), "9 classes"),
    "no backbone": (_set("model", "backbone", value=None), "'backbone'"),
    "activation": (_set("model", "activation", value="__import__('os').mkdir('marker')"), "activation"),
    "layer": (_set("model", "backbone", 0, 2, value="check_requirements"), "'check_requirements'"),
    "host's error": (_set("model", "backbone", 1, 0, value=99), "cannot be built"),
    "scale": (lambda _, d: d["model"].update(scale="q", scales={"n": [1, 1, 64]}), "cannot be built"),
    "section": (_set("model", "qreg", value={"version": 1}), "cannot be built"),
    "section's version": (_set("model", "qreg", "version", value=7), "version 7"),
    "layer's plan": (_set("model", "qreg", "layers", value={"model.99": {}}), "cannot be built"),
    "another model": (lambda _, d: d["model"].pop("qreg"), "too much"),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_malformed_files_are_refused(name: str, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tensors, description = read(saved)
    edit, words = EDITS[name]
    edit(tensors, description)
    path = tmp_path / "bad.safetensors"
    save_file(tensors, path, {HEADER: json.dumps(description)})
    with pytest.raises(WeightsError, match=words) as error:
        load_weights(path)
    assert str(path) in str(error.value)
    assert not Path("marker").exists()


def test_the_file_that_the_above_are_made_from_loads(saved: Path, tmp_path: Path) -> None:
    tensors, description = read(saved)
    path = tmp_path / "good.safetensors"
    save_file(tensors, path, {HEADER: json.dumps(description)})
    assert_same(load_safetensors(saved)[0], load_safetensors(path)[0])


@pytest.mark.parametrize("fault", ["empty", "text", "cut header", "cut data", "longer"])
def test_damaged_files_are_refused(fault: str, saved: Path, tmp_path: Path) -> None:
    data = saved.read_bytes()
    cut = {
        "empty": b"", "text": b"hello", "cut header": data[:100], "cut data": data[:-4], "longer": data + b"more",
    }[fault]  # fmt: skip
    path = tmp_path / "bad.safetensors"
    path.write_bytes(cut)
    with pytest.raises(WeightsError, match=r"bad\.safetensors.*damaged"):
        load_weights(path)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        (None, "without a description"),
        ({}, "without a description"),
        ({"format": "pt"}, "without a description"),
        ({HEADER: "{"}, "not JSON"),
        ({HEADER: "[1]"}, "version None"),
        ({HEADER: "[" * 100_000}, "not JSON"),
    ],
    ids=["none", "empty", "another's", "cut", "list", "deep"],
)
def test_files_of_others_are_refused(metadata: dict[str, str] | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.ones(2)}, path, metadata)
    with pytest.raises(WeightsError, match=words):
        load_weights(path)


def test_a_description_is_not_changed_by_loading(saved: Path) -> None:
    before = deepcopy(read(saved)[1])
    model, _ = load_safetensors(saved)
    assert isinstance(model, QuantDetectionModel)
    assert model.yaml == before["model"]
