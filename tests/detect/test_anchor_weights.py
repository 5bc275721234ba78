"""Weights for the anchor head: YOLOv5 files run and start trainings, whatever their classes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from qreg_yolo.datasets.voc.convert import convert_voc
from qreg_yolo.detect import QuantDetectionModel, QuantYOLO
from qreg_yolo.detect.checkpoint import load_start, load_weights, yolov5_detector
from qreg_yolo.detect.evaluate import validate
from qreg_yolo.detect.head_transfer import HeadRows
from qreg_yolo.detect.quantization_config import QuantizationConfig
from qreg_yolo.detect.yolov5_weights import YOLOv5Weights
from qreg_yolo.errors import WeightsError
from qreg_yolo.io import records
from qreg_yolo.quant import quantized_layers
from tests.detect import factories
from tests.detect.anchor_forward import forward
from tests.detect.conftest import SETTINGS, ultralytics_warnings
from tests.detect.factories import images
from tests.io.checkpoint_factories import write_classic

build = partial(factories.build, model="yolov5n.yaml")
calibrated = partial(factories.calibrated, model="yolov5n.yaml")

pytestmark = pytest.mark.usefixtures("torch_on_one_thread")
OFFICIAL = Path(__file__).parents[3] / "shared" / "data" / "weights" / "yolov5n.pt"
PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "VOCdevkit" / "VOC2007" / "JPEGImages"
NAMES = ["disc", "box", "car", "person"]


@pytest.fixture(scope="module")
def classic(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """Returns a file of version 6.0's layout, with NumPy objects in it, and its tensors."""
    path = tmp_path_factory.mktemp("classic") / "v6.pt"
    more: dict[str, Any] = {
        "best_fitness": np.array([0.25]),
        "training_results": np.arange(6.0).reshape(2, 3),
        "updates": np.int64(7),
    }
    return path, write_classic(path, names=NAMES, whole_class="Model", **more)


def assert_agrees(model: torch.nn.Module, state: dict[str, Tensor], x: Tensor) -> None:
    """Asserts that boxes agree to 0.01 px and scores to 1e-4."""
    with torch.no_grad():
        expected = forward(x, state).transpose(1, 2)
        found = model.eval()(x)[0]
    assert found.shape == (len(x), expected.shape[1] - 1, expected.shape[2])
    assert torch.allclose(found[:, :4], expected[:, :4], atol=1e-2)
    assert torch.allclose(found[:, 4:], expected[:, 4:5] * expected[:, 5:], atol=1e-4)


def test_a_classic_file_of_version_6_runs_and_gives_what_its_tensors_give(
    classic: tuple[Path, dict[str, Tensor]],
) -> None:
    path, saved = classic
    model, checkpoint = load_weights(path)
    assert type(model) is QuantDetectionModel
    assert QuantizationConfig.of(model).head.kind == "anchor"
    assert not quantized_layers(model)
    assert model.names == dict(enumerate(NAMES))
    assert checkpoint["train_args"] == {}
    assert not model.training
    state = {name: tensor.float() for name, tensor in saved.items()}
    assert_agrees(model, state, images())
    facade = QuantYOLO(str(path))
    assert torch.equal(facade.model(images())[0], model(images())[0])


def test_every_tensor_is_taken_strictly(classic: tuple[Path, dict[str, Tensor]]) -> None:
    path, saved = classic
    assert len(saved) == 349
    state = load_weights(path)[0].state_dict()
    assert state.keys() == {"model.24.anchor_wh" if name == "model.24.anchors" else name for name in saved}
    for name, tensor in saved.items():
        if name != "model.24.anchors":
            assert torch.equal(state[name], tensor.to(state[name])), name
    start, _ = load_start(path)
    assert isinstance(start, YOLOv5Weights)
    for change in ({"model.3.conv.weight": None}, {"model.3.conv.weight": torch.ones(1)}, {"more": torch.ones(1)}):
        tensors = {name: tensor for name, tensor in {**start.tensors, **change}.items() if tensor is not None}
        with pytest.raises(WeightsError, match="does not fit"):
            yolov5_detector(YOLOv5Weights(path, tensors, start.names))


def test_the_activation_of_the_file_is_built_and_executed_only_if_it_is_one(tmp_path: Path) -> None:
    write_classic(tmp_path / "relu.pt", activation="nn.ReLU()")
    model, _ = load_weights(tmp_path / "relu.pt")
    assert isinstance(model.get_submodule("model.0.act"), torch.nn.ReLU)
    write_classic(tmp_path / "evil.pt", activation=f"__import__('os').mkdir({str(tmp_path / 'marker')!r})")
    with pytest.raises(WeightsError, match=r"evil\.pt.*activation"):
        load_weights(tmp_path / "evil.pt")
    assert not (tmp_path / "marker").exists()


def test_classic_files_of_other_networks_can_only_be_started_from(tmp_path: Path) -> None:
    write_classic(tmp_path / "other.pt", model="yolov8n.yaml")
    with pytest.raises(WeightsError, match=r"other\.pt.*not YOLOv5 n, s, m, l or x.*--weights"):
        load_weights(tmp_path / "other.pt")
    assert isinstance(load_start(tmp_path / "other.pt")[0], YOLOv5Weights)


# ------------------------------------------------------------------------------------------------ other classes


@pytest.mark.parametrize("bits", [4, 32])
def test_a_training_with_as_many_classes_takes_everything(bits: int, classic: tuple[Path, dict[str, Tensor]]) -> None:
    model = build(nc=4, bits=bits, head="anchor", pretrained=True)
    with ultralytics_warnings() as said:
        model.load(load_start(classic[0])[0])
    assert said == ["Transferred 349 of 349 tensors from 'v6.pt' (YOLOv5 weights); untrained: none"]
    expected = load_weights(classic[0])[0].state_dict()
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in expected.items())
    assert len(quantized_layers(model)) == (60 if bits == 4 else 0)


def rows_of(tensor: Tensor) -> Tensor:
    return tensor.view(3, -1, *tensor.shape[1:])


def check_rows(state: dict[str, Tensor], fresh: dict[str, Tensor], source: dict[str, Tensor]) -> None:
    """Asserts what a head of (person, cat, DISC) has of one of `NAMES`."""
    for level in range(3):
        for kind in ("weight", "bias"):
            name = f"model.24.m.{level}.{kind}"
            new, old, untrained = rows_of(state[name]), rows_of(source[name].float()), rows_of(fresh[name])
            assert torch.equal(new[:, :5], old[:, :5])
            assert torch.equal(new[:, 5], old[:, 5 + 3])
            assert torch.equal(new[:, 6], untrained[:, 6])
            assert torch.equal(new[:, 7], old[:, 5 + 0])


SAID = "Anchor head of 4 classes: box and objectness rows taken, class rows of 2 of 3 classes by name; untrained: cat"


def test_other_classes_of_a_classic_file_go_by_name(classic: tuple[Path, dict[str, Tensor]]) -> None:
    path, saved = classic
    model = build(nc=3, bits=4, head="anchor", pretrained=True)
    model.names = {0: "person", 1: "cat", 2: "DISC "}
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with ultralytics_warnings() as said:
        model.load(load_start(path)[0])
    assert said == [
        "Transferred 343 of 349 tensors from 'v6.pt' (YOLOv5 weights); untrained: model.24 (6)",
        SAID,
    ]
    check_rows(model.state_dict(), fresh, saved)


def test_other_classes_of_our_own_checkpoint_go_by_name() -> None:
    source = calibrated(bits=4, head="anchor")
    source.names = dict(enumerate(NAMES))
    model = build(nc=3, bits=4, head="anchor", pretrained=True)
    model.names = {0: "person", 1: "cat", 2: "DISC "}
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with ultralytics_warnings() as said:
        model.load(source)
    assert said[-1] == SAID
    check_rows(model.state_dict(), fresh, source.state_dict())


def test_the_same_classes_in_another_order_are_put_in_order() -> None:
    source = calibrated(bits=32, head="anchor")
    source.names = dict(enumerate(NAMES))
    model = build(nc=4, bits=32, head="anchor")
    model.names = dict(enumerate(reversed(NAMES)))
    model.load(source, verbose=False)
    new, old = (rows_of(one.state_dict()["model.24.m.1.weight"]) for one in (model, source))
    assert torch.equal(new[:, 5:], old[:, 5:].flip(1))
    assert torch.equal(new[:, :5], old[:, :5])


@pytest.mark.parametrize(
    ("names", "source", "rows"),
    [
        (["a", "b"], ["a", "b"], (0, 1)),
        (["a", "b"], ["c", "d"], (0, 1)),
        (["a", "b"], ["b", "c"], (None, 0)),
        (["0", "1"], ["a", "b"], (0, 1)),
        (["0", "1", "2"], ["0", "1"], (None, None, None)),
        (["Potted Plant"], ["x", "pottedplant"], (1,)),
        (["a"], ["a", "a"], (0,)),
    ],
)
def test_rows_by_name(names: list[str], source: list[str], rows: tuple[int | None, ...]) -> None:
    assert HeadRows.by_name(names, source).rows == rows


def test_training_from_python_starts_from_a_classic_file_and_keeps_its_head(
    classic: tuple[Path, dict[str, Tensor]], tiny_data: Path, tmp_path: Path
) -> None:
    """A checkpoint's head is kept unless another one is asked for."""
    model = QuantYOLO(str(classic[0]))
    with ultralytics_warnings() as said:
        model.train(
            data=str(tiny_data),
            qreg={"bits": 4},
            epochs=1,
            project=str(tmp_path),
            name="run",
            **SETTINGS | {"imgsz": 32},
        )
    assert QuantizationConfig.of(model.model).head.kind == "anchor"
    taken = "Anchor head of 4 classes: box and objectness rows taken, class rows of 2 of 5 classes by name"
    assert f"{taken}; untrained: triangle, cross, ring" in said
    assert sum(line.startswith("Anchors: best possible recall 1.0000 at 32 px") for line in said) == 1


# ------------------------------------------------------------------------------------------------ the official file


@pytest.mark.data
@pytest.mark.skipif(not OFFICIAL.is_file(), reason="the official yolov5n.pt is not there")
def test_the_official_file_gives_what_its_tensors_give() -> None:
    """One photograph, letterboxed to 640 px; the tensors come from the file without the code under test's model."""
    import cv2

    start, _ = load_start(OFFICIAL)
    assert isinstance(start, YOLOv5Weights)
    assert len(start.tensors) == 349
    picture = cv2.imread(str(next(iter(sorted(PHOTOS.glob("*.jpg"))))))[..., ::-1]
    height, width = picture.shape[:2]
    picture = cv2.resize(picture, (round(width * 640 / max(height, width)), round(height * 640 / max(height, width))))
    canvas = np.full((640, 640, 3), 114, np.uint8)
    canvas[: picture.shape[0], : picture.shape[1]] = picture
    image = torch.from_numpy(canvas).permute(2, 0, 1)[None].float() / 255
    model, _ = load_weights(OFFICIAL)
    assert sum(p.numel() for p in model.parameters()) == 1872157
    assert len(model.names) == 80
    assert_agrees(model, start.tensors, image)
    assert float(model(image)[0][:, 4:].max()) > 0.3, "it detects nothing, so agreement proves little"


@pytest.mark.data
@pytest.mark.slow  # half a minute of one core
@pytest.mark.skipif(not OFFICIAL.is_file(), reason="the official yolov5n.pt is not there")
def test_the_official_file_detects_on_photographs(tmp_path: Path) -> None:
    """At the 320 px that the sample's photographs have; enlarged to 640 px they give 0.484 and 0.307.

    Eleven of the 19 classes have at most 10 objects; bus, car, cat, person and train, with 90 and more, average 0.788.
    """
    yaml = convert_voc(PHOTOS.parents[1], tmp_path / "VOC").yaml
    arguments = {"imgsz": 320, "batch": 16, "plots": False, "project": str(tmp_path), "split": "test"}
    result = validate(OFFICIAL, str(yaml), arguments, 1, "anchor", "coco2voc")
    found = {row["metric"]: row["value"] for row in records.read(result.save_dir / "records.csv").to_dicts()}
    assert found["map50"] == pytest.approx(0.5340, abs=0.005)
    assert found["map50_95"] == pytest.approx(0.3489, abs=0.005)
