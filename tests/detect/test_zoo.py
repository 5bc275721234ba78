"""The other detectors: golden lists of layers, no weight without its quantizer, build, train, save and reload."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from qreg_yolo.detect import QuantDetectionModel, QuantYOLO
from qreg_yolo.detect.anchor_head import AnchorDetect
from qreg_yolo.detect.evaluate import inspect_weights
from qreg_yolo.detect.policy import clipped_layers, clipping_warning, unused_branch
from qreg_yolo.detect.validator import QuantDetectionValidator
from qreg_yolo.quant import QuantSpec, calibrate, quantized_layers
from tests.detect.conftest import Trained, train_tiny
from tests.detect.factories import END_TO_END, build, calibrated, images
from tests.detect.golden import FOLDER, MODELS, build_network, table, yaml_and_head
from tests.detect.test_trainer import Stub

SMALL = ("yolov5n-anchor", "yolov5s", "yolov8n", "yolo11n", "yolo26n")
REMEDY = "if this is meant: python tests/detect/golden.py --write"
LARGE = ("yolov5m", "yolov5l", "yolov5x")


TRAINED = ("yolo11n", "yolo26n")
"""Networks with attention and with an end-to-end head; other tests train the blocks and heads of YOLOv5."""
MARKED = [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in MODELS]
"""The large ones have the blocks of YOLOv5s, only more of them."""


@pytest.fixture(scope="module", params=MARKED)
def network(request: pytest.FixtureRequest) -> QuantDetectionModel:
    """Returns a calibrated detector, for tests that leave it as it is."""
    torch.manual_seed(0)
    model = build_network(request.param)
    calibrate(model, [images()])
    model.record_plan()
    return model


def _name(model: QuantDetectionModel) -> str:
    return Path(model.yaml["yaml_file"]).stem + ("-anchor" if isinstance(model.model[-1], AnchorDetect) else "")


def test_swapped_and_skipped_layers_are_the_golden_ones(network: QuantDetectionModel) -> None:
    golden = (FOLDER / f"{_name(network)}.txt").read_text(encoding="utf-8")
    assert table(network) == golden, REMEDY


@pytest.mark.parametrize("name", LARGE)
def test_swapped_and_skipped_layers_of_large_networks_are_the_golden_ones(name: str) -> None:
    assert table(build_network(name)) == (FOLDER / f"{name}.txt").read_text(encoding="utf-8"), REMEDY


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("yolov8n", []),
        ("yolo11n", [f"model.10.{rest}.conv" for rest in ("cv2", "m.0.attn.proj", "m.0.attn.pe", "m.0.ffn.0")]),
    ],
)
def test_one_sided_quantizers_without_a_relu_in_front_are_named(name: str, found: list[str]) -> None:
    """Attention blocks have convolutions without an activation, also in a ReLU network."""
    request: dict[str, Any] = {"bits": 4, "method": "pact", "activation": "relu", "model": f"{name}.yaml"}
    model, spec = build(**request), QuantSpec(method="pact", weight_bits=4, act_bits=4)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert clipped_layers(model) == found
    assert model.training
    _assert_same_state(model.state_dict(), before)
    assert all(layer in str(clipping_warning(model, spec, "relu")) for layer in found)
    assert clipped_layers(build(**request, overrides={"*": {"method": "lsq"}})) == []


class WeightReads(TorchFunctionMode):
    """Counts calls, and lists what computes with the weight of a quantized layer beside its quantizer."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.calls: Counter[tuple[str, str]] = Counter()
        self.reads: set[str] = set()
        self._inside = 0
        self._names = {id(layer.weight): name for name, layer in quantized_layers(model).items()}
        self._handles = []
        for name, layer in quantized_layers(model).items():
            parts = {"layer": layer, "weight": layer.weight_fake_quant, "input": layer.input_fake_quant}
            for kind, module in parts.items():
                self._handles.append(module.register_forward_hook(self._counter(name, kind)))
            self._handles.append(layer.weight_fake_quant.register_forward_pre_hook(self._enter))
            self._handles.append(layer.weight_fake_quant.register_forward_hook(self._leave))

    def _counter(self, name: str, kind: str) -> Callable[..., None]:
        return lambda *_: self.calls.update([(name, kind)])

    def _enter(self, *_: Any) -> None:
        self._inside += 1

    def _leave(self, *_: Any) -> None:
        self._inside -= 1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self._inside:
            given = [*args, *(kwargs or {}).values()]
            self.reads |= {self._names[id(value)] for value in given if id(value) in self._names}
        return func(*args, **(kwargs or {}))

    def __exit__(self, *details: Any) -> None:
        for handle in self._handles:
            handle.remove()
        super().__exit__(*details)


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_a_pass_runs_each_layer_once_and_reads_no_weight_behind_its_quantizer(
    network: QuantDetectionModel, training: bool
) -> None:
    """Both branches of an end-to-end head run in both modes: nothing is fused away."""
    network.train(training)
    with torch.no_grad(), WeightReads(network) as seen:
        network(images())
    expected = {(name, kind): 1 for name in quantized_layers(network) for kind in ("layer", "weight", "input")}
    assert seen.calls == expected
    assert not seen.reads


def test_a_weight_read_behind_its_quantizer_and_a_second_call_are_noticed() -> None:
    model = build_network("yolo11n")
    calibrate(model, [images()])
    attention = model.get_submodule("model.10.m.0.attn")
    qkv, proj = attention.qkv, attention.proj
    qkv.forward = lambda x: F.conv2d(x, qkv.conv.weight)
    proj.forward = lambda x: proj.bn(proj.conv(proj.conv(x)))
    with torch.no_grad(), WeightReads(model) as seen:
        model(images())
    assert seen.reads == {"model.10.m.0.attn.qkv.conv"}
    assert seen.calls["model.10.m.0.attn.qkv.conv", "weight"] == 0
    assert seen.calls["model.10.m.0.attn.proj.conv", "input"] == 2


def _raw(outputs: dict[str, Any]) -> list[Tensor]:
    """Returns what a head gives before it is decoded."""
    if "levels" in outputs:
        return list(outputs["levels"])
    branches = outputs.values() if "one2many" in outputs else [outputs]
    return [branch[key] for branch in branches for key in ("boxes", "scores")]


@pytest.mark.parametrize("network", SMALL, indirect=True)
def test_every_weight_and_every_step_gets_a_gradient(network: QuantDetectionModel) -> None:
    network.train()
    torch.stack([output.square().sum() for output in _raw(network(images()))]).sum().backward()
    missing = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    network.zero_grad()
    assert [name for name in missing if ".dfl." not in name] == []


def test_a_saved_network_comes_back_bit_for_bit(network: QuantDetectionModel, tmp_path: Path) -> None:
    network.eval()
    path = tmp_path / "network.pt"
    torch.save({"model": network, "train_args": {}}, path)
    again = QuantYOLO(str(path)).model
    path.unlink()
    assert isinstance(again, QuantDetectionModel)
    _assert_same_state(again.state_dict(), network.state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval()(images())[0], network(images())[0])


def _assert_same_state(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert state.keys() == expected.keys()
    different = [key for key in expected if not torch.equal(state[key], expected[key])]
    assert different == []


@dataclass
class Validation:
    """What validation saw of its one batch, before it picked boxes: a short epoch reaches no accuracy above 0."""

    end_to_end: bool
    outputs: Tensor


@pytest.fixture
def validations(monkeypatch: pytest.MonkeyPatch) -> list[Validation]:
    """Collects every validation."""
    found: list[Validation] = []
    original = QuantDetectionValidator.postprocess

    def recorded(self: QuantDetectionValidator, predictions: Any) -> Any:
        outputs = [output.flatten() for output in _raw(predictions[1])]
        found.append(Validation(self.end2end, torch.cat(outputs)))
        return original(self, predictions)

    monkeypatch.setattr(QuantDetectionValidator, "postprocess", recorded)
    return found


def _check_run(name: str, data: Path, folder: Path, validations: list[Validation], **more: Any) -> Trained:
    yaml, head = yaml_and_head(name)
    run = train_tiny(data, folder, {"bits": 4, "head": head}, epochs=1, model_yaml=yaml, imgsz=32, **more)
    count = len(quantized_layers(run.model))
    assert count == len(quantized_layers(build_network(name)))
    assert {run.counter.per_pass(phase) for phase in ("train", "val", "final_eval")} == {(count, count)}
    assert all(run.ema_flags)
    assert len(run.ema_flags) == 2 * count
    facade = QuantYOLO(str(run.best))  # after one epoch the same tensors as in last.pt
    _assert_same_state(facade.model.state_dict(), run.ema_state)
    facade.save(folder / "again.pt")
    _assert_same_state(QuantYOLO(str(folder / "again.pt")).model.state_dict(), run.ema_state)
    facade.predict(torch.rand(1, 3, 32, 32), verbose=False, imgsz=32)
    box = facade.val(project=str(folder), name="val", plots=False).box
    assert (float(box.map50), float(box.map)) == run.best_map
    in_training, final, alone = validations
    assert in_training.end_to_end == final.end_to_end == alone.end_to_end
    assert final.outputs.std() > 0
    assert torch.equal(alone.outputs, final.outputs)
    assert torch.allclose(in_training.outputs, final.outputs, rtol=1e-3, atol=1e-3)
    return run


@pytest.mark.parametrize(
    "name", [name if name in TRAINED else pytest.param(name, marks=pytest.mark.slow) for name in (*SMALL, *LARGE)]
)
def test_train_save_reload_validate_and_inspect(
    name: str, tiny_data: Path, tmp_path: Path, validations: list[Validation]
) -> None:
    run = _check_run(name, tiny_data, tmp_path, validations)
    inspection = inspect_weights(run.best)
    lines = (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    assert len(inspection.layers) == len(lines) - 1
    assert all(layer.macs for layer in inspection.layers)
    assert inspection.bit_operations < inspection.float_bit_operations / 40
    rows = inspection.to_text().splitlines()
    assert {len(row) for row in rows[: len(lines)]} == {len(rows[0])}, "the columns do not line up"
    assert ("Both branches" in rows[-1]) is (name == "yolo26n")


@pytest.mark.slow  # Muon's matrix products in bfloat16 take long on a CPU
def test_training_an_end_to_end_head_with_muon_and_its_one_to_one_branch(
    tiny_data: Path, tmp_path: Path, validations: list[Validation]
) -> None:
    run = _check_run("yolo26n", tiny_data, tmp_path, validations, nms=False, optimizer="MuSGD")
    assert validations[0].end_to_end
    _check_step_groups(run.optimizer_groups)
    assert all(bool(value > 0) for key, value in run.ema_state.items() if key.endswith("step_size"))
    assert all(".cv" in name for name in inspect_weights(run.best).unused_branch)


@pytest.mark.parametrize(("trained", "expected"), [(False, [True, False]), (None, [False, False])])
def test_the_branch_that_training_measured_is_the_default(
    trained: bool | None, expected: list[bool], tiny_data: Path, tmp_path: Path, validations: list[Validation]
) -> None:
    model = calibrated(bits=4, model=END_TO_END)
    torch.save({"model": model, "train_args": {"nms": trained, "batch": 4}}, tmp_path / "network.pt")
    facade = QuantYOLO(str(tmp_path / "network.pt"))
    for given in ({}, {"nms": None}):
        facade.predict(torch.rand(1, 3, 32, 32), verbose=False, imgsz=32, **given)
        assert facade.predictor.model.end2end is expected[bool(given)]
        # single_cls: which of the classes are which is not asked
        facade.val(data=str(tiny_data), imgsz=32, project=str(tmp_path), plots=False, single_cls=True, **given)
        assert validations[-1].end_to_end is expected[bool(given)]


def test_no_step_size_of_an_end_to_end_head_goes_to_muon() -> None:
    """Muon makes matrices orthogonal; it would do so to a step size that had the shape of one."""
    model = build_network("yolo26n")
    calibrate(model, [images()])
    _check_step_groups(Stub().build_optimizer(model, "MuSGD", 0.02, 0.9, 5e-4, 1e5).param_groups)


def _check_step_groups(groups: list[dict[str, Any]]) -> None:
    steps = [group for group in groups if group["param_group"] == "quant_step"]
    others = [group for group in groups if group["param_group"] != "quant_step"]
    assert [len(group["params"]) for group in steps] == [252]
    assert not steps[0]["use_muon"]
    assert any(group["use_muon"] for group in others)
    assert all(p.ndim > 0 for group in others for p in group["params"])


def test_one_branch_of_an_end_to_end_head_is_spare() -> None:
    """Both run and count, because nothing is fused; the report says which one inference goes without."""
    model = build_network("yolo26n")
    one_to_one = unused_branch(model)
    assert len(one_to_one) == 24
    assert all("one2one" in name for name in one_to_one)
    model.end2end = True
    assert unused_branch(model) == [name.replace("one2one_", "") for name in one_to_one]
    assert unused_branch(build_network("yolo11n")) == []
