"""Classic YOLOv5's checkpoints: their tensors start a training, nothing else of them is taken."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ultralytics.nn.tasks import DetectionModel

from qreg_yolo.detect import QuantYOLO
from qreg_yolo.detect.checkpoint import load_start
from qreg_yolo.detect.yolov5_weights import YOLOv5Weights
from qreg_yolo.errors import WeightsError
from qreg_yolo.quant import quantized_layers, uninitialized_quantizers
from tests.detect.conftest import SETTINGS, ultralytics_warnings
from tests.detect.factories import build, calibrated
from tests.detect.test_safe_loading import HOSTILE
from tests.io.checkpoint_factories import Evil, classic_packages, write_classic

pytestmark = pytest.mark.usefixtures("torch_on_one_thread")


@pytest.fixture(scope="module")
def classic(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """Returns a user-trained file of YOLOv5, and its tensors."""
    path = tmp_path_factory.mktemp("classic") / "mine.pt"
    return path, write_classic(path)


def test_classic_weights_are_all_read(classic: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, saved = classic
    assert "models" not in sys.modules
    start, _ = load_start(path)
    assert isinstance(start, YOLOv5Weights)
    expected = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in saved.items()}
    assert start.tensors.keys() == expected.keys()
    assert all(start.tensors[name].dtype == tensor.dtype for name, tensor in expected.items())
    assert all(torch.equal(start.tensors[name], tensor) for name, tensor in expected.items())
    assert "model.24.anchors" in expected
    assert "model.24.grid" not in expected


@pytest.mark.parametrize("bits", [4, 32])
def test_classic_weights_go_where_name_and_shape_fit(bits: int, classic: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, saved = classic
    model = build(model="yolov5n.yaml", bits=bits, pretrained=True)
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with ultralytics_warnings() as said:
        model.load(load_start(path)[0])
    assert said == ["Transferred 342 of 427 tensors from 'mine.pt' (YOLOv5 weights); untrained: model.24 (85)"]
    same = 0
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, saved[name].to(tensor) if name in saved else fresh[name]), name
        same += name in saved
    assert same == 342
    assert len(quantized_layers(model)) == (75 if bits == 4 else 0)


def test_ranges_of_other_weights_are_forgotten(classic: tuple[Path, dict[str, torch.Tensor]]) -> None:
    model = calibrated(model="yolov5n.yaml", bits=4)
    model.load(load_start(classic[0])[0], verbose=False)
    assert len(uninitialized_quantizers(model)) == 150


def test_classic_weights_of_another_size_are_an_error(
    classic: tuple[Path, dict[str, torch.Tensor]], plain: DetectionModel
) -> None:
    with pytest.raises(WeightsError, match=r"\[16, 3, 6, 6\] there and \[32, 3, 6, 6\] here.*--model"):
        build(model="yolov5s.yaml", bits=4).load(load_start(classic[0])[0])
    with pytest.raises(WeightsError, match=r"has 0 tensors"):
        YOLOv5Weights(Path("empty.pt"), {}).fitting(plain.state_dict())


def test_hostile_classic_files_give_their_tensors_and_nothing_else(tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "evil.pt"
    saved = write_classic(path, extra=Evil(marker), opt=HOSTILE["eval"](marker))
    start, _ = load_start(path)
    assert isinstance(start, YOLOv5Weights)
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

    class Stop(Exception):
        pass

    def stop(trainer: Any) -> None:
        seen.append(trainer.model.model[1].conv.weight.detach().clone())
        raise Stop

    model = QuantYOLO("yolov5n.yaml")
    model.add_callback("on_train_start", stop)
    with ultralytics_warnings() as said, pytest.raises(Stop):
        model.train(
            data=str(tiny_data), qreg={"bits": 4}, pretrained=str(path), epochs=1, project=str(tmp_path), name="run",
            val=False, **SETTINGS,
        )  # fmt: skip
    assert sum("Transferred 342 of 427" in line for line in said) == 1
    assert torch.equal(seen[0], saved["model.1.conv.weight"].float())


def test_a_loaded_model_takes_other_weights(
    classic: tuple[Path, dict[str, torch.Tensor]], tiny_data: Path, tmp_path: Path
) -> None:
    """Ultralytics would unpickle the file itself there."""
    torch.save({"model": calibrated(bits=4, nc=5, model="yolov5n.yaml"), "train_args": {}}, tmp_path / "a.pt")

    class Stop(Exception):
        pass

    seen: list[torch.nn.Module] = []

    def stop(trainer: Any) -> None:
        seen.append(trainer.model)
        raise Stop

    model = QuantYOLO(str(tmp_path / "a.pt"))
    model.add_callback("on_train_start", stop)
    with pytest.raises(Stop):
        model.train(
            data=str(tiny_data), qreg={"bits": 4}, pretrained=str(classic[0]), epochs=1, project=str(tmp_path),
            name="run", **SETTINGS,
        )  # fmt: skip
    assert torch.equal(seen[0].model[1].conv.weight, classic[1]["model.1.conv.weight"].float())
    assert len(quantized_layers(seen[0])) == 75
