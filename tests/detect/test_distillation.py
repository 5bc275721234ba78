"""Distillation losses of both heads against plain loops, and of features against Ultralytics' own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from ultralytics.nn.distill_model import DistillationModel

from qreg_yolo.config.ultralytics_keys import host_defaults
from qreg_yolo.detect.anchor_head import AnchorDetect
from qreg_yolo.detect.distillation import (
    FEATURE_GAIN,
    anchor_divergence,
    anchor_free_divergence,
    class_scores,
)
from tests.detect import anchor_reference as reference
from tests.detect.anchor_reference import cross_entropy, sigmoid
from tests.detect.distillation_helpers import HEADS, batch, distilled, distiller, gradient_norm, network
from tests.detect.factories import END_TO_END
from tests.detect.test_anchor_loss import criterion

pytestmark = pytest.mark.usefixtures("torch_on_one_thread")


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
