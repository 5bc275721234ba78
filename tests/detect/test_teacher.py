"""A teacher that cannot teach is refused before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from qreg_yolo.config.detection import resolve
from qreg_yolo.config.distillation import DistillOptions
from qreg_yolo.detect import QuantDetectionModel, runs, save_safetensors
from qreg_yolo.detect.checkpoint import load_weights
from qreg_yolo.detect.teacher import HeadShape, Teacher, check_anchors, check_teacher, load_teacher
from qreg_yolo.errors import MissingFileError, ModelError, WeightsError
from tests import TINY
from tests.detect.conftest import Trained
from tests.detect.factories import END_TO_END, build

NAMES = ["a", "b", "c", "d"]


def saved(path: Path, **request: Any) -> DistillOptions:
    """Writes an untrained float detector, and returns the options that name it as the teacher."""
    model = build(bits=32, **request)
    model.names = dict(enumerate(NAMES))
    save_safetensors(model, path)
    return DistillOptions(teacher=str(path))


def teacher(losses: str = "logits", **request: Any) -> Teacher:
    model = build(bits=32, **{key: value for key, value in request.items() if key != "projector"})
    model.names = dict(enumerate(NAMES))
    options = DistillOptions(teacher="t.pt", losses=losses, projector=request.get("projector", False))
    return Teacher(model, options)


def student(**request: Any) -> HeadShape:
    return HeadShape.of(build(bits=32, **request))


def test_a_teacher_is_read_in_eval_mode_without_gradients(tmp_path: Path) -> None:
    assert load_teacher(DistillOptions()) is None
    found = load_teacher(saved(tmp_path / "t.safetensors", head="anchor"))
    assert found is not None
    assert found.options.sha256 is not None
    head = found.model.model[-1]
    assert [name for name, module in found.model.named_modules() if module.training] == [f"model.{head.i}"]
    assert not any(parameter.requires_grad for parameter in found.model.parameters())
    with torch.no_grad():
        assert list(found.model(torch.rand(1, 3, 64, 64))) == ["levels"], "raw outputs, not decoded"


def test_a_quantized_teacher_is_welcome(trained: Trained) -> None:
    found = load_teacher(DistillOptions(teacher=str(trained.best)))
    assert found is not None
    names = list(load_weights(trained.best)[0].names.values())
    check_teacher(found, student(nc=len(names)), names, 3)


@pytest.mark.parametrize("head", ["anchor_free", "anchor"])
def test_the_head_that_a_network_will_have(head: str) -> None:
    float_network = QuantDetectionModel(TINY, nc=4, verbose=False)
    assert HeadShape.of(float_network, kind=head) == student(head=head)


@pytest.mark.parametrize(
    ("made", "shape", "words"),
    [
        ({"head": "anchor"}, {}, ["the anchor head", "the anchor_free head", "--distill features"]),
        ({}, {"head": "anchor"}, ["the anchor_free head", "--distill features"]),
        ({"model": END_TO_END}, {}, ["one-to-one branch", "reg_max 1"]),
        ({"model": {**END_TO_END, "reg_max": 16}}, {"model": END_TO_END}, ["reg_max 16", "reg_max 1)"]),
        ({"nc": 3}, {}, ["4 classes"]),
    ],
    ids=str,
)
def test_logits_that_cannot_be_compared(made: dict[str, Any], shape: dict[str, Any], words: list[str]) -> None:
    names = NAMES[:3] if "nc" in made else NAMES
    with pytest.raises(WeightsError) as error:
        check_teacher(teacher(**made), student(**shape), names, 3)
    assert all(word in str(error.value) for word in ["t.pt", *words]), error.value


def test_features_of_another_head_can_be_compared() -> None:
    check_teacher(teacher("features", head="anchor"), student(), NAMES, 3)
    check_teacher(teacher("features"), student(model=END_TO_END), NAMES, 3)


def test_features_of_another_width_need_a_projector() -> None:
    wider = HeadShape("anchor_free", False, 16, (8, 16, 32), (1, 2, 3))
    with pytest.raises(WeightsError, match=r"\[1, 2, 3\]. Set projector: true"):
        check_teacher(teacher("both"), wider, NAMES, 3)
    check_teacher(teacher("both", projector=True), wider, NAMES, 3)
    check_teacher(teacher("logits"), wider, NAMES, 3)
    other_levels = HeadShape("anchor_free", False, 16, (16, 32, 64), (1, 2, 3))
    with pytest.raises(WeightsError, match=r"levels of strides \[8, 16, 32\], the student of \[16, 32, 64\]"):
        check_teacher(teacher("features", projector=True), other_levels, NAMES, 3)


def test_other_classes_or_channels() -> None:
    with pytest.raises(WeightsError, match="in another order"):
        check_teacher(teacher(), student(), NAMES[::-1], 3)
    with pytest.raises(WeightsError, match=r"\(a, b, c, d\), the student 4 \(e, b, c, d\)"):
        check_teacher(teacher(), student(), ["e", *NAMES[1:]], 3)
    with pytest.raises(WeightsError, match="sees 3 image channels, the data have 1"):
        check_teacher(teacher(), student(), NAMES, 1)


def test_other_anchors() -> None:
    heads = [build(bits=32, head="anchor").model[-1] for _ in range(2)]
    found = teacher(head="anchor")
    check_anchors(found, heads[0])
    heads[1].anchor_wh.mul_(1.1)
    with pytest.raises(WeightsError, match="without --autoanchor"):
        check_anchors(found, heads[1])
    check_anchors(teacher(), heads[1])


def test_a_head_that_cannot_be_distilled() -> None:
    model = build(bits=32)
    model.model[-1] = torch.nn.Identity()
    with pytest.raises(ModelError, match="A Identity head cannot be distilled"):
        HeadShape.of(model)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("absent.pt", MissingFileError, "no teacher"),
        ("noise.pt", WeightsError, "noise.pt"),
        ("other.safetensors", WeightsError, "trained on the same classes"),
    ],
)
def test_the_command_refuses_it_before_a_folder_is_made(
    name: str, error: type[Exception], words: str, tiny_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "noise.pt").write_bytes(b"noise")
    saved(tmp_path / "other.safetensors")
    options = {"model": TINY, "data": str(tiny_data), "teacher": str(tmp_path / name)}
    config = resolve(None, options, {"project": str(tmp_path / "runs"), "epochs": 1, "imgsz": 32})
    with pytest.raises(error, match=words):
        runs.train(config)
    assert not (tmp_path / "runs").exists()
