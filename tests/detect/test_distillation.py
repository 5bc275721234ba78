"""Distillation losses of both heads against plain loops, and the criterion that joins them to the detection loss."""

from __future__ import annotations

import math
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from ultralytics.nn.distill_model import DistillationModel
from ultralytics.utils import DEFAULT_CFG

from qreg_yolo.config.distillation import DistillOptions
from qreg_yolo.config.ultralytics_keys import host_defaults
from qreg_yolo.detect import QuantDetectionModel
from qreg_yolo.detect.anchor_head import AnchorDetect
from qreg_yolo.detect.distillation import (
    FEATURE_GAIN,
    Distiller,
    anchor_divergence,
    anchor_free_divergence,
    class_scores,
    without_teacher,
)
from qreg_yolo.detect.teacher import Teacher
from qreg_yolo.errors import WeightsError
from tests.detect import anchor_reference as reference
from tests.detect.anchor_reference import cross_entropy, sigmoid
from tests.detect.factories import END_TO_END, build
from tests.detect.test_anchor_loss import criterion
from tests.process_helpers import run_forked

pytestmark = pytest.mark.usefixtures("torch_on_one_thread")

HEADS: list[dict[str, Any]] = [{}, {"head": "anchor"}, {"model": END_TO_END}]


def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {
        "img": torch.rand(4, 3, 64, 64, generator=generator),
        "batch_idx": torch.arange(4.0).repeat_interleave(2),
        "cls": torch.tensor([0.0, 1, 2, 3, 0, 1, 2, 3])[:, None],
        "bboxes": torch.rand(8, 4, generator=generator) * 0.4 + 0.3,
    }


def network(seed: int, **request: Any) -> QuantDetectionModel:
    """Returns a float detector, whose activations BatchNorm scales as after training."""
    torch.manual_seed(seed)
    model = build(bits=32, **request)
    model.args = deepcopy(DEFAULT_CFG)
    model.args.imgsz = 64
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # the mean over all batches
        model.train()(batch()["img"])
    return model.eval()


def distiller(student: QuantDetectionModel, teacher: QuantDetectionModel, **options: Any) -> Distiller:
    teacher.eval().requires_grad_(False)
    teacher.model[-1].training = True
    found = Distiller(Teacher(teacher, DistillOptions(teacher="t.pt", **options)), student, seed=0)
    found.attach()
    return found


def distilled(student: QuantDetectionModel) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns loss and terms of a student whose BatchNorm has the statistics of inference, as the teacher's."""
    student.eval()
    student.model[-1].training = True
    loss, items = student.loss(batch())
    return loss, items


def gradient_norm(model: nn.Module) -> float:
    return float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))


# ------------------------------------------------------------------------------------------------ teacher = student


@pytest.mark.parametrize("losses", ["logits", "features", "both"])
@pytest.mark.parametrize("request_", HEADS, ids=["anchor_free", "anchor", "end2end"])
def test_a_teacher_equal_to_the_student_has_no_loss_and_no_gradient(request_: dict[str, Any], losses: str) -> None:
    student, teacher = (network(0, **request_) for _ in range(2))
    distiller(student, teacher, losses=losses)
    loss, items = distilled(student)
    loss[-1].backward()
    assert float(items["distill_loss"]) == pytest.approx(0, abs=1e-5)
    assert gradient_norm(student) == pytest.approx(0, abs=1e-5)
    other = network(0, **request_)
    distiller(other, network(1, **request_), losses=losses)
    loss, items = distilled(other)
    loss[-1].backward()
    assert float(items["distill_loss"]) > 1e-3, "the loss above would be 0 anyway"
    assert gradient_norm(other) > 1e-3


# ------------------------------------------------------------------------------------------------ equations


def levels(seed: int, nc: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 3 * (5 + nc), size, size, generator=generator) for size in (4, 2, 1)]


def divergence(student: float, teacher: float) -> float:
    p = sigmoid(teacher)
    return cross_entropy(student, p) - cross_entropy(teacher, p)


@pytest.mark.parametrize("nc", [1, 3])
def test_the_anchor_heads_loss_by_loops(nc: int) -> None:
    own = criterion(nc, box=0.07, obj=1.3, cls=0.6)
    teacher_head = AnchorDetect(nc, (4, 4, 4), torch.tensor([8.0, 16.0, 32.0]))
    s_levels, t_levels = levels(0, nc), levels(1, nc)
    found = anchor_divergence(own, teacher_head, {"levels": s_levels}, {"levels": t_levels})
    box = objectness = classes = 0.0
    for number, (stride, maps) in enumerate(zip((8, 16, 32), zip(s_levels, t_levels, strict=True), strict=True)):
        s, t = (one.double().view(2, 3, 5 + nc, *one.shape[2:]).numpy() for one in maps)
        places = list(np.ndindex(2, 3, *s.shape[3:]))
        total = sum(sigmoid(t[b, a, 4, y, x]) for b, a, y, x in places)
        for b, a, y, x in places:
            rows = [one[b, a, :, y, x] for one in (s, t)]
            weight = sigmoid(rows[1][4]) / total
            boxes = [
                (
                    2 * sigmoid(r[0]) - 0.5,
                    2 * sigmoid(r[1]) - 0.5,
                    (2 * sigmoid(r[2])) ** 2 * reference.ANCHORS[number][a][0] / stride,
                    (2 * sigmoid(r[3])) ** 2 * reference.ANCHORS[number][a][1] / stride,
                )
                for r in rows
            ]
            box += weight * (1 - reference.ciou(*boxes)[0])
            objectness += reference.BALANCE[number] * divergence(rows[0][4], rows[1][4]) / len(places)
            classes += weight * sum(divergence(rows[0][5 + c], rows[1][5 + c]) for c in range(nc)) / nc
    gains = (0.07, 1.3 * (64 / 640) ** 2, 0.6 * nc / 80)
    expected = gains[0] * box + gains[1] * objectness + (gains[2] * classes if nc > 1 else 0)
    assert float(found) == pytest.approx(expected, rel=1e-4)


def branch(seed: int, reg_max: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "boxes": torch.randn(2, 4 * reg_max, 5, generator=generator) + (1 if reg_max == 1 else 0),
        "scores": torch.randn(2, 3, 5, generator=generator),
        "feats": [torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 1, 1)],
    }


CENTRES = [(0.5, 0.5), (1.5, 0.5), (0.5, 1.5), (1.5, 1.5), (0.5, 0.5)]
"""x and y of the five positions, cells."""


def corners(sides: Any, place: int) -> tuple[float, ...]:
    """Returns a box as xywh from its distances to the left, top, right and bottom."""
    left, top, right, bottom = (float(side) for side in sides)
    x, y = CENTRES[place]
    return x + (right - left) / 2, y + (bottom - top) / 2, left + right, top + bottom


@pytest.mark.parametrize("reg_max", [4, 1])
def test_the_anchor_free_heads_loss_by_loops(reg_max: int) -> None:
    model = SimpleNamespace(
        reg_max=reg_max, stride=torch.tensor([8.0, 16.0]), hyp=SimpleNamespace(box=7.5, cls=0.5, dfl=1.5),
        bbox_decode=lambda points, sides: torch.cat((points - sides[..., :2], points + sides[..., 2:]), -1),
    )  # fmt: skip
    student, teacher = branch(0, reg_max), branch(1, reg_max)
    found = float(anchor_free_divergence(model, student, teacher))
    score = {(b, n): sigmoid(float(teacher["scores"][b, :, n].max())) for b, n in np.ndindex(2, 5)}
    total = sum(score.values())
    classes = sum(
        divergence(float(student["scores"][i]), float(teacher["scores"][i])) for i in np.ndindex(2, 3, 5)
    ) / total  # fmt: skip
    if reg_max > 1:
        sides = 0.0
        for b, n, side in np.ndindex(2, 5, 4):
            bins = slice(side * reg_max, (side + 1) * reg_max)
            p, q = (np.exp(one["boxes"][b, bins, n].double().numpy()) for one in (teacher, student))
            p, q = p / p.sum(), q / q.sum()
            sides += score[b, n] / total * float((p * np.log(p / q)).sum()) / 4
        assert found == pytest.approx(0.5 * classes + 1.5 * sides, rel=1e-5)
        return
    boxes = {i: [corners(one["boxes"][i[0], :, i[1]], i[1]) for one in (student, teacher)] for i in score}
    flat = [i for i, (_, t) in boxes.items() if min(t[2:]) <= 0]
    assert 0 < len(flat) < 5, "some of the teacher's boxes have no area, and do not count"
    left = sum(weight for i, weight in score.items() if i not in flat)
    regular = [i for i in score if i not in flat and min(boxes[i][0][2:]) > 0]
    assert len(regular) == len(score) - len(flat), "the student's boxes have one"
    box = sum(score[i] / left * (1 - reference.ciou(*boxes[i])[0]) for i in regular)
    assert found == pytest.approx(0.5 * classes + 7.5 * box, rel=1e-4)


def test_the_branches_of_an_end_to_end_head_have_the_weights_of_the_detection_loss() -> None:
    student, teacher = network(0, model=END_TO_END), network(1, model=END_TO_END)
    found = distiller(student, teacher)
    student.model[-1].training = True
    raws = [model(batch()["img"]) for model in (student, teacher)]
    base = found._base
    terms = {name: anchor_free_divergence(base.one2many, *(r[name] for r in raws)).item() for name in raws[0]}
    before = float(distilled(student)[1]["distill_loss"])
    assert before == pytest.approx(0.8 * terms["one2many"] + 0.2 * terms["one2one"], rel=1e-4)
    found.update()  # an epoch
    after = float(distilled(student)[1]["distill_loss"])
    assert after == pytest.approx(base.o2m * terms["one2many"] + base.o2o * terms["one2one"], rel=1e-4)
    assert base.o2m < 0.8
    distiller(network(0), network(1)).update()  # a head with one branch has no such weights


# ------------------------------------------------------------------------------------------------ features


def test_scores_are_the_highest_class_probabilities() -> None:
    raw = branch(0, 1)
    fine, coarse = class_scores(nn.Identity(), raw)
    expected = raw["scores"].sigmoid().amax(1)
    assert torch.equal(fine.flatten(1), expected[:, :4])
    assert torch.equal(coarse.flatten(1), expected[:, 4:])
    both = class_scores(nn.Identity(), {"one2many": raw, "one2one": branch(1, 1)})
    expected = ((raw["scores"] + branch(1, 1)["scores"]) / 2).sigmoid().amax(1)
    assert torch.allclose(both[0].flatten(1), expected[:, :4])
    head = AnchorDetect(3, (4, 4, 4), torch.tensor([8.0, 16.0, 32.0]))
    maps = levels(0, 3)
    for found, level in zip(class_scores(head, {"levels": maps}), maps, strict=True):
        p = level.view(2, 3, 8, *level.shape[2:]).sigmoid()
        for b, y, x in np.ndindex(*found.shape):
            best = max(float(p[b, a, 4, y, x] * p[b, a, 5 + c, y, x]) for a in range(3) for c in range(3))
            assert float(found[b, y, x]) == pytest.approx(best, rel=1e-6)


def test_with_a_projector_features_have_ultralytics_own_loss() -> None:
    student, teacher = network(0), network(1)
    found = distiller(student, teacher, losses="features", projector=True, features=0.5)
    assert found.projector is not None
    assert FEATURE_GAIN * host_defaults()["box"] == pytest.approx(host_defaults()["dis"])
    student.model[-1].training = True
    own, other = (model(batch()["img"]) for model in (student, teacher))
    parts = torch.split(other["scores"], [64, 16, 4], dim=-1)
    scores = tuple(part.sigmoid().max(dim=1, keepdim=True).values for part in parts)
    errors = [
        DistillationModel.loss_sl2(None, found.projector[i](own["feats"][i]), other["feats"][i], i, scores)
        for i in range(3)
    ]
    expected = torch.stack(errors).sum()
    assert float(distilled(student)[1]["distill_loss"]) == pytest.approx(0.5 * 6.0 * expected.item(), rel=1e-4)
    shapes = [tuple(layer.weight.shape[:2]) for one in found.projector for layer in one if isinstance(layer, nn.Conv2d)]
    widths = [features.shape[1] for features in own["feats"]]
    assert shapes == [(width, width) for width in widths for _ in range(2)]


def test_the_weights_of_the_losses() -> None:
    def loss(**options: Any) -> float:
        student = network(0, head="anchor")
        distiller(student, network(1, head="anchor"), **options)
        return float(distilled(student)[1]["distill_loss"])

    logits, features = loss(losses="logits"), loss(losses="features")
    assert loss(losses="both", logits=3.0, features=0.5) == pytest.approx(3 * logits + 0.5 * features, rel=1e-4)


# ------------------------------------------------------------------------------------------------ criterion


@pytest.mark.parametrize("request_", HEADS, ids=["anchor_free", "anchor", "end2end"])
def test_the_detection_loss_stays_what_it_was(request_: dict[str, Any]) -> None:
    plain, student = network(0, **request_), network(0, **request_)
    distiller(student, network(1, **request_), losses="both")
    loss, items = distilled(student)
    plain.model[-1].training = True
    alone, own_items = plain.loss(batch())
    assert torch.equal(loss[:-1], alone.reshape(-1))
    assert loss[-1].item() == pytest.approx(4 * float(items["distill_loss"]), rel=1e-6), "times the images"
    assert list(items) == [*own_items, "distill_loss"]
    assert all(torch.equal(items[name], value) for name, value in own_items.items())
    assert not any(item.requires_grad for item in items.values())


def test_the_teacher_does_not_learn() -> None:
    student, teacher = network(0), network(1)
    before = deepcopy(teacher.state_dict())
    distiller(student, teacher, losses="both")
    student.train().loss(batch())[0].sum().backward()
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not any(module.training for module in teacher.modules() if isinstance(module, nn.BatchNorm2d))


def test_nothing_of_it_is_a_part_of_the_model() -> None:
    student = network(0, head="anchor")
    names, modules = list(student.state_dict()), len(list(student.modules()))
    distiller(student, network(1, head="anchor"), losses="both", projector=True)
    student.train().loss(batch())
    assert list(student.state_dict()) == names
    assert len(list(student.modules())) == modules


def test_the_projector_has_a_group_without_decay_and_draws_nothing() -> None:
    torch.manual_seed(11)
    expected = torch.rand(1)
    student, teacher = network(0), network(1)
    torch.manual_seed(11)
    found, again = (distiller(student, teacher, losses="both", projector=True) for _ in range(2))
    assert torch.equal(torch.rand(1), expected)
    assert found.projector is not None
    assert again.projector is not None
    assert all(map(torch.equal, found.projector.parameters(), again.projector.parameters())), (
        "the same in all processes"
    )
    (group,) = found.optimizer_groups(lr=0.1)
    assert group == {
        "params": list(found.projector.parameters()), "lr": 0.1, "weight_decay": 0.0, "param_group": "projector",
    }  # fmt: skip
    assert distiller(student, teacher, losses="both").optimizer_groups(lr=0.1) == []


def test_the_projector_and_its_waiting_gradients_are_restored() -> None:
    found = distiller(network(0), network(1), losses="both", projector=True)
    assert found.projector is not None
    distilled(found._student)[0].sum().backward()
    state = deepcopy(found.state(waiting=True))
    assert found.state(waiting=False)["gradients"] == {}
    assert len(state["gradients"]) == len(state["projector"]) == 12
    other = distiller(network(0), network(1), losses="both", projector=True)
    assert other.projector is not None
    with torch.no_grad():
        next(other.projector.parameters()).zero_()
    other.restore(state)
    other.restore_gradients(state)
    for one, two in zip(found.projector.parameters(), other.projector.parameters(), strict=True):
        assert torch.equal(one, two)
        assert one.grad is not None
        assert two.grad is not None
        assert torch.equal(one.grad, two.grad)
    assert distiller(network(0), network(1)).state(waiting=True) == {}


def test_other_anchors_are_refused_before_the_first_step() -> None:
    student, teacher = network(0, head="anchor"), network(1, head="anchor")
    student.model[-1].anchor_wh.mul_(1.2)
    with pytest.raises(WeightsError, match="--autoanchor"):
        distiller(student, teacher)
    distiller(student, teacher, losses="features")


def test_in_bf16_the_teacher_runs_as_the_student_does() -> None:
    student, teacher = network(0), network(1)
    distiller(student, teacher)
    seen: list[torch.dtype] = []
    teacher.model[0].conv.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    distilled(student)
    student.yaml["qreg"]["precision"] = "bf16"
    loss, _ = distilled(student)
    assert seen == [torch.float32, torch.bfloat16]
    assert loss.dtype == torch.float32


@pytest.mark.slow
@pytest.mark.parametrize("request_", HEADS, ids=["anchor_free", "anchor", "end2end"])
def test_a_compiled_student_has_the_same_loss(request_: dict[str, Any]) -> None:
    """As in Ultralytics' loop: the compiled network gives the outputs, its loss and the teacher run eagerly."""
    student = network(0, **request_)
    distiller(student, network(1, **request_), losses="both", projector=True)
    losses, gradients = [], []
    for call in (student, torch.compile(student, backend="aot_eager")):
        student.eval().zero_grad()
        student.model[-1].training = True
        whole = batch()
        loss, _ = student.loss(whole, call(whole["img"]))
        loss.sum().backward()
        losses.append(loss.detach())
        gradients.append(gradient_norm(student))
    assert torch.allclose(losses[0], losses[1], rtol=1e-4)
    assert gradients[1] == pytest.approx(gradients[0], rel=1e-3)


def test_validation_has_no_column() -> None:
    assert without_teacher(["val/box_loss", "val/distill_loss"]) == ["val/box_loss"]
    labelled: Mapping[str, float] = {"train/box_loss": 1.0, "train/distill_loss": 2.0}
    assert without_teacher(dict(labelled)) == labelled
    assert without_teacher({"val/box_loss": 1.0, "val/distill_loss": 0.0}) == {"val/box_loss": 1.0}


PROCESS = """
import sys, torch
from torch import distributed, nn
from tests.detect.test_distillation import batch, distiller, network

torch.set_num_threads(1)
rank = int(sys.argv[1])
distributed.init_process_group("gloo")
student = network(0)
found = distiller(student, network(1), losses="both", projector=True)
parallel = nn.parallel.DistributedDataParallel(student, find_unused_parameters=True)
parallel.eval()
student.model[-1].training = True
whole = batch()
for number in range(2):  # gradients are accumulated
    part = {name: value[2 * rank : 2 * rank + 2] if name == "img" else value for name, value in whole.items()}
    mine = (whole["batch_idx"] // 2) == rank
    part |= {name: whole[name][mine] for name in ("batch_idx", "cls", "bboxes")}
    part["batch_idx"] = part["batch_idx"] - 2 * rank
    parallel(part)[0].sum().backward()
found.average_gradients()
torch.save([p.grad for p in (*found.projector.parameters(), *student.parameters())], sys.argv[2])
distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_have_the_mean_of_both_gradients(tmp_path: Any) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]

    def run(rank: int) -> Any:
        env = {"WORLD_SIZE": "2", "RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        return run_forked(PROCESS, rank, tmp_path / f"{rank}.pt", env=env)

    with ThreadPoolExecutor(2) as pool:
        for process in pool.map(run, (0, 1)):
            assert process.returncode == 0, process.stderr[-3000:]
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    student = network(0)
    found = distiller(student, network(1), losses="both", projector=True)
    assert found.projector is not None
    student.model[-1].training = True
    whole = batch()
    for rank in (0, 1):
        mine = (whole["batch_idx"] // 2) == rank
        part = {name: whole[name][mine] for name in ("batch_idx", "cls", "bboxes")}
        part |= {"img": whole["img"][2 * rank : 2 * rank + 2], "batch_idx": part["batch_idx"] - 2 * rank}
        student.loss(part)[0].sum().backward()  # twice, of the mean of two
    expected = [p.grad for p in (*found.projector.parameters(), *student.parameters())]
    for a, b, c in zip(one, two, expected, strict=True):
        assert (a is None) == (c is None)
        if a is not None:
            assert c is not None
            assert math.isclose(float((a - b).abs().max()), 0, abs_tol=1e-6)
            assert torch.allclose(a, c, rtol=1e-3, atol=1e-5)
