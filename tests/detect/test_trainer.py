"""The trainer: optimizer groups, calibration, threads, the baseline's data, checkpoints that are never half written."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from ultralytics.nn.modules.conv import Conv
from ultralytics.utils import DEFAULT_CFG

from qreg_yolo.detect import QuantDetectionModel, QuantDetectionTrainer, QuantYOLO
from qreg_yolo.detect.compat import check_ultralytics
from qreg_yolo.detect.policy import frozen_norms
from qreg_yolo.detect.quantization_config import QuantizationConfig
from qreg_yolo.detect.resume import preserved_random_state
from qreg_yolo.io.process import requested_threads
from qreg_yolo.quant import Quantizer, quantized_layers
from tests import TINY
from tests.detect.conftest import SETTINGS, Trained, train_tiny
from tests.detect.factories import calibrated


class Stub(QuantDetectionTrainer):
    """A trainer with just enough of itself to build an optimizer."""

    def __init__(self) -> None:
        self.args = DEFAULT_CFG
        self.data = {"nc": 4}


def _quantizer_parameters(model: torch.nn.Module) -> set[int]:
    return {id(p) for m in model.modules() if isinstance(m, Quantizer) for p in m.parameters()}


def test_frozen_layers_are_calibrated_as_they_are_trained(tiny_data: Path, tmp_path: Path) -> None:
    """The step of the first layer behind them is that of the inputs that it has in training."""
    fed: list[torch.Tensor] = []
    step: list[float] = []

    def watch(trainer: Any) -> None:
        layer = trainer.model.get_submodule("model.2.cv1.conv")
        step.append(layer.input_fake_quant.step_size.item())
        layer.register_forward_pre_hook(lambda _, inputs: fed.append(inputs[0].detach()))

    model = QuantYOLO(TINY)
    model.add_callback("on_train_start", watch)
    settings = {**SETTINGS, "imgsz": 32, "epochs": 1, "project": str(tmp_path), "name": "run", "val": False}
    model.train(data=str(tiny_data), qreg={"weight_bits": 32, "act_bits": 8}, freeze=2, **settings)
    expected = 2 * fed[0].abs().mean().item() / 255**0.5
    assert expected / 2 < step[0] < expected * 2  # on batch statistics it is 20 times as much


def test_the_norms_that_a_freeze_keeps_in_eval_mode() -> None:
    model = QuantDetectionModel("yolov5n.yaml", nc=4, verbose=False)
    assert frozen_norms(model, None) == frozen_norms(model, []) == set()
    assert frozen_norms(model, 2) == frozen_norms(model, [0, 1]) == {"model.0.bn", "model.1.bn"}
    assert frozen_norms(model, ["1", "24.cv2.0"]) == {"model.1.bn", "model.24.cv2.0.0.bn", "model.24.cv2.0.1.bn"}
    assert not any(name.startswith("model.10.") for name in frozen_norms(model, [1]))


@pytest.mark.parametrize("name", ["SGD", "AdamW", "MuSGD", "auto"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_steps_have_a_group_of_their_own_without_decay(name: str, per_channel: bool) -> None:
    model = calibrated(bits=4, per_channel=per_channel)
    optimizer = Stub().build_optimizer(model, name, 0.02, 0.9, 5e-4, 1e5)
    own = _quantizer_parameters(model)
    assert len(own) == 60
    seen = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(seen) == len(set(seen)) == len(list(model.parameters())), "a parameter is lost or in two groups"
    for group in optimizer.param_groups:
        ids = {id(p) for p in group["params"]}
        if group.get("param_group") == "quant_step":
            assert ids == own
            assert group["weight_decay"] == 0.0
            assert not group.get("use_muon", False)
            assert group["lr"] == min(g["lr"] for g in optimizer.param_groups)
        else:
            assert not ids & own
    assert all(p.ndim < 2 for g in optimizer.param_groups if g.get("param_group") == "quant_step" for p in g["params"])


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_offsets_have_a_group_of_their_own_without_decay(name: str) -> None:
    model = calibrated(bits=4, method="lsq+")
    groups = Stub().build_optimizer(model, name, 0.02, 0.9, 5e-4, 1e5).param_groups
    names = [group.get("param_group") for group in groups]
    assert names[-2:] == ["quant_step", "quant_offset"]
    assert [len(group["params"]) for group in groups[-2:]] == [60, 30]
    assert groups[-1]["weight_decay"] == 0.0
    seen = [id(p) for group in groups for p in group["params"]]
    assert len(seen) == len(set(seen)) == len(list(model.parameters()))


def test_pact_clips_are_decayed() -> None:
    model = calibrated(bits=4, method="pact", activation="relu")
    groups = Stub().build_optimizer(model, "SGD", 0.01, 0.9, 5e-4, 1e5).param_groups
    clips = [group for group in groups if group.get("param_group") == "quant_clip"]
    assert len(clips) == 1
    assert len(clips[0]["params"]) == 23
    assert clips[0]["weight_decay"] == 5e-4
    model = calibrated(bits=4, method="pact", activation="relu", clip_decay=1e-3)
    groups = Stub().build_optimizer(model, "SGD", 0.01, 0.9, 5e-4, 1e5).param_groups
    assert groups[-1]["weight_decay"] == 1e-3


def test_steps_stay_positive_under_a_huge_learning_rate() -> None:
    model = calibrated(bits=4).train()
    optimizer = Stub().build_optimizer(model, "SGD", 10.0, 0.9, 0.0, 1e5)
    for p in model.parameters():
        p.grad = torch.randn_like(p) * 10
    optimizer.step()
    steps = [layer.weight_fake_quant.step_size for layer in quantized_layers(model).values()]
    assert all(bool((step > 0).all()) for step in steps)


def test_the_run_had_the_step_group(trained: Trained) -> None:
    names = [group.get("param_group") for group in trained.optimizer_groups]
    assert names == ["weight", "bn", "bias", "quant_step"] or sorted(map(str, names)) == [
        "bias", "bn", "quant_step", "weight",
    ]  # fmt: skip
    state = torch.load(trained.best, weights_only=False)["model"].state_dict()
    steps = [value for key, value in state.items() if key.endswith("step_size")]
    assert len(steps) == 60
    assert all(bool((step > 0).all()) for step in steps)


def test_threads_are_restored_in_training_and_validation(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QREG_YOLO_THREADS", "2")
    run = train_tiny(tiny_data, tmp_path, {"bits": 4}, epochs=1)
    assert {phase: run.counter.threads[phase] for phase in ("train", "val", "final_eval")} == {
        "train": 2, "val": 2, "final_eval": 2,
    }  # fmt: skip
    monkeypatch.setenv("QREG_YOLO_THREADS", "1")
    QuantYOLO(str(run.best)).val(project=str(tmp_path), name="val", plots=False)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(2)
    QuantYOLO(str(run.best)).predict(torch.rand(1, 3, 64, 64), verbose=False, imgsz=64)
    assert torch.get_num_threads() == 1


def test_requested_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QREG_YOLO_THREADS", "3")
    assert requested_threads() == 3
    monkeypatch.delenv("QREG_YOLO_THREADS")
    assert requested_threads() >= 1
    monkeypatch.setenv("QREG_YOLO_THREADS", "many")
    with pytest.raises(ValueError, match="many"):
        requested_threads()


def test_random_states_are_preserved() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    random.seed(0), np.random.seed(0), torch.manual_seed(0)  # noqa: NPY002
    expected = draw()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)  # noqa: NPY002
    with preserved_random_state():
        draw()
    assert draw() == expected


def test_the_baseline_sees_the_same_data_and_starts_from_the_same_weights(tiny_data: Path, tmp_path: Path) -> None:
    seen: dict[int, list[Any]] = {}
    for bits in (4, 32):
        batches: list[Any] = seen.setdefault(bits, [])
        start: dict[str, torch.Tensor] = {}

        class Recorder(QuantDetectionTrainer):
            def preprocess_batch(self, batch: dict[str, Any], _into: list[Any] = batches) -> dict[str, Any]:
                result = super().preprocess_batch(batch)
                _into.append((self.ema is not None, result["img"].clone(), result["bboxes"].clone()))
                return result

        model = QuantYOLO(TINY)
        model.add_callback("on_train_start", lambda t, s=start: s.update(w=t.model.model[1].conv.weight.clone()))
        model.train(
            trainer=Recorder, data=str(tiny_data), qreg={"bits": bits}, epochs=1, project=str(tmp_path),
            name=f"b{bits}", **{**SETTINGS, "mosaic": 1.0, "hsv_v": 0.4, "translate": 0.1, "fliplr": 0.5},
        )  # fmt: skip
        seen[bits] = [item[1:] for item in batches if item[0]]  # after calibration
        seen[bits].append((start["w"], torch.zeros(0)))
    assert len(seen[4]) == len(seen[32]) == 3
    for quantized, plain in zip(seen[4], seen[32], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(quantized, plain, strict=True))


@pytest.mark.parametrize(
    "request_",
    [
        {"bits": 2, "method": "pact", "activation": "relu"},
        {"bits": 4, "method": "dorefa", "weight_only": True},
        {"bits": 1, "per_channel": True},
        {"bits": 2, "method": "lsq+"},
    ],
)
def test_other_methods_train_save_and_reload(request_: dict[str, Any], tiny_data: Path, tmp_path: Path) -> None:
    run = train_tiny(tiny_data, tmp_path, request_, epochs=1)
    model = QuantYOLO(str(run.best)).model
    assert isinstance(model, QuantDetectionModel)
    edges = 7 if request_.get("method") in ("pact", "dorefa") else 0
    assert len(quantized_layers(model)) == 30 - edges
    inputs = 0 if request_.get("weight_only") else 30 - edges
    assert run.counter.per_pass("final_eval") == (30 - edges, inputs)


class DirectConv(Conv):
    """Reads its convolution's weight without calling it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.act(
            self.bn(F.conv2d(x, self.conv.weight, None, self.conv.stride, self.conv.padding))
        )
        return found


@pytest.mark.parametrize("request_", [{"bits": 4}, {"bits": 4, "method": "dorefa", "weight_only": True}], ids=str)
def test_a_layer_that_calibration_does_not_reach_is_float_in_the_network_and_in_its_plan(
    request_: dict[str, Any], tiny_data: Path, tmp_path: Path
) -> None:
    class Trainer(QuantDetectionTrainer):
        def get_model(self, *args: Any, **kwargs: Any) -> QuantDetectionModel:
            model = super().get_model(*args, **kwargs)
            model.model[1].__class__ = DirectConv
            return model

    class Stop(Exception):
        pass

    def stop(trainer: Any) -> None:
        raise Stop(trainer)

    model = QuantYOLO(TINY)
    model.add_callback("on_train_start", stop)
    with pytest.raises(Stop) as stopped:
        model.train(
            trainer=Trainer, data=str(tiny_data), qreg=request_, epochs=1, project=str(tmp_path), name="run", **SETTINGS
        )
    trainer = stopped.value.args[0]
    section = QuantizationConfig.read(trainer.model.yaml)
    assert section is not None
    assert type(trainer.model.model[1].conv) is torch.nn.Conv2d
    assert "no calibration batch called it" in section.skipped["model.1.conv"]
    assert section.layers == {name: layer.plan for name, layer in quantized_layers(trainer.model).items()}
    optimized = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert optimized == {id(p) for p in trainer.model.parameters()}
    rebuilt = QuantDetectionModel(trainer.model.yaml, nc=4, verbose=False)
    assert rebuilt.state_dict().keys() == trainer.model.state_dict().keys() == trainer.ema.ema.state_dict().keys()


def test_unknown_arguments_are_refused_before_a_folder_is_made(tiny_data: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    for arguments, text in (({"qreg": {"bits": 9}}, "bits=9"), ({"epcohs": 3}, "epcohs")):
        with pytest.raises((ValueError, SyntaxError), match=text):
            QuantYOLO(TINY).train(data=str(tiny_data), project=str(project), **arguments)
    assert not project.exists()


def test_a_checkpoint_is_replaced_at_once_or_not_at_all(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that breaks off half way leaves the old file."""
    last = tmp_path / "last.pt"
    last.write_bytes(b"the old one")

    class Trainer(QuantDetectionTrainer):
        def __init__(self) -> None:
            self.wdir, self.last, self.best = tmp_path, last, tmp_path / "best.pt"
            self._batches_since_step = 0

    def torn(self: Any) -> bool:
        self.last.write_bytes(b"half of the new")
        raise KeyboardInterrupt

    monkeypatch.setattr("ultralytics.engine.trainer.BaseTrainer.save_model", torn)
    with pytest.raises(KeyboardInterrupt):
        Trainer().save_model()
    assert last.read_bytes() == b"the old one"
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_the_host_is_as_expected() -> None:
    check_ultralytics()


def test_a_host_that_lacks_a_method_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qreg_yolo.detect.compat.ultralytics_version", "8.3.0")
    with pytest.raises(RuntimeError, match=r"8\.3\.0"):
        check_ultralytics()


@pytest.mark.parametrize("choice", [None, False])
def test_the_cpu_trains_with_channels_last_unless_told_otherwise(
    choice: bool | None, tiny_data: Path, tmp_path: Path
) -> None:
    seen: list[tuple[bool, bool]] = []

    def look(trainer: Any) -> None:
        weight = trainer.model.model[1].conv.weight  # 3x3: the two orders differ
        tensors = weight, trainer._batch["img"]
        seen.append(tuple(t.is_contiguous(memory_format=torch.channels_last) for t in tensors))

    model = QuantYOLO(TINY)
    model.add_callback("on_train_batch_end", look)
    model.train(
        data=str(tiny_data), qreg={"bits": 4}, epochs=1, project=str(tmp_path), **SETTINGS, channels_last=choice
    )
    assert set(seen) == {(choice is None, choice is None)}
    stored = torch.load(model.trainer.last, weights_only=False)
    kept = (stored["model"] or stored["ema"]).model[1].conv.weight
    assert kept.is_contiguous(), "released Ultralytics fuses checkpoints with .view()"


def test_validation_every_other_epoch_and_at_the_end(tiny_data: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "imgsz": 32, "epochs": 3, "project": str(tmp_path), "data": str(tiny_data)}
    folders = []
    for every in (1, 2):
        model = QuantYOLO(TINY)
        model.train(qreg={"bits": 4, "val_every": every}, name=str(every), **settings)
        folders.append(model.trainer.save_dir)
        assert model.trainer.metrics["metrics/mAP50(B)"] >= 0, "the best checkpoint is measured"
    one, two = (list(csv.DictReader((folder / "results.csv").read_text().splitlines())) for folder in folders)
    names = [name for name in one[0] if name.startswith(("val/", "metrics/"))]
    assert len(names) > 4
    for epoch, (all_, some) in enumerate(zip(one, two, strict=True), 1):
        assert some["train/box_loss"] == all_["train/box_loss"]
        assert [some[name] for name in names] == ([all_[name] for name in names] if epoch > 1 else ["nan"] * len(names))


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "2"])
def test_an_interval_of_validation_that_is_no_count(every: object) -> None:
    with pytest.raises(ValueError, match="val_every="):
        QuantDetectionTrainer(overrides={"model": TINY, "qreg": {"val_every": every}})
