"""The anchor head's loss: hand-computed values, an independent reference, and gradients by differences."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from qreg_yolo.config.detection import HeadConfig
from qreg_yolo.detect.anchor_head import AnchorDetect
from qreg_yolo.detect.anchor_loss import AnchorLoss, match
from tests.detect import anchor_reference as reference
from tests.detect.factories import build

pytestmark = pytest.mark.usefixtures("torch_on_one_thread")


def criterion(nc: int, imgsz: int = 64, **config: Any) -> AnchorLoss:
    head = AnchorDetect(nc, (4, 4, 4), torch.tensor([8.0, 16.0, 32.0]))
    model = SimpleNamespace(model=[head], args=SimpleNamespace(imgsz=imgsz))
    return AnchorLoss(model, HeadConfig(kind="anchor", **config))


def batch_of(targets: Tensor) -> dict[str, Tensor]:
    return {"batch_idx": targets[:, 0], "cls": targets[:, 1:2], "bboxes": targets[:, 2:]}


def levels_of(fill: Tensor, images: int, height: int = 64, width: int = 64) -> list[Tensor]:
    """Returns raw maps of which every anchor has the outputs ``fill``."""
    return [fill.repeat(3)[None, :, None, None].repeat(images, 1, height // s, width // s) for s in (8, 16, 32)]


# ------------------------------------------------------------------------------------------------ by hand


def test_two_targets_by_hand() -> None:
    """64-px images, two classes, every output 0 except objectness, which is 1; anchor_t is 1.5.

    A 10x13 object at (20, 28) and a 32x32 object at (44, 28) both lie in the middle of a cell of the first level, so
    no neighbour answers. They match the anchors 10x13 and 33x23 alone, and no anchor of the other levels. Outputs of 0
    decode to the anchor itself in the middle of the cell: CIoU 1, and

        overlap 32 x 23 = 736, union 33 x 23 + 32 x 32 - 736 = 1047, IoU = 0.702961
        v = 4/pi^2 (atan(32/32) - atan(33/23))^2 = 0.012652, alpha = v / (1 - IoU + v) = 0.040854
        CIoU = 0.702961 - 0.012652 * 0.040854 = 0.702444
    """
    targets = torch.tensor([[0, 0, 20 / 64, 28 / 64, 10 / 64, 13 / 64], [1, 1, 44 / 64, 28 / 64, 0.5, 0.5]])
    levels = levels_of(torch.tensor([0.0, 0, 0, 0, 1, 0, 0]), images=2)
    loss, items = criterion(2, anchor_t=1.5)({"levels": levels}, batch_of(targets))
    box = 0.05 * ((1 - 1) + (1 - 0.702444)) / 2
    classes = 0.5 * 2 / 80 * math.log(2)
    softplus = math.log(1 + math.e)  # cross-entropy of an output of 1 whose target is 0; each unit of target takes 1
    first = softplus - (1 + 0.702444) / (2 * 3 * 64)
    objectness = 1.0 * (64 / 640) ** 2 * (4 * first + 1 * softplus + 0.4 * softplus)
    assert float(items["box_loss"]) == pytest.approx(box, abs=2e-7)
    assert float(items["obj_loss"]) == pytest.approx(objectness, abs=2e-7)
    assert float(items["cls_loss"]) == pytest.approx(classes, abs=2e-7)
    assert float(loss) == pytest.approx(2 * (box + objectness + classes), abs=1e-6)
    assert list(items) == ["box_loss", "obj_loss", "cls_loss"]
    assert not any(item.requires_grad for item in items.values())


@pytest.mark.parametrize(
    ("x", "y", "cells"),
    [
        (2.5, 3.5, [(2, 3)]),
        (2.25, 3.25, [(2, 3), (1, 3), (2, 2)]),
        (2.75, 3.75, [(2, 3), (3, 3), (2, 4)]),
        (0.25, 3.5, [(0, 3)]),
        (7.75, 5.75, [(7, 5)]),
        (8.0, 6.0, [(7, 5), (7, 5), (7, 5)]),
        (1.0, 2.5, [(1, 2), (1, 2)]),
        (0.0, 0.0, [(0, 0), (0, 0), (0, 0)]),
    ],
)
def test_the_cells_that_answer_for_a_centre(x: float, y: float, cells: list[tuple[int, int]]) -> None:
    """A grid of 8 x 6. On a border between cells both neighbours count, as they are rounded in YOLOv5."""
    targets = torch.tensor([[3.0, 1, x / 8, y / 6, 2 / 8, 2 / 6]])
    found = match(targets, torch.tensor([[2.0, 2.0]]), 6, 8, 4.0)
    assert sorted(zip(found.column.tolist(), found.row.tolist(), strict=True)) == sorted(cells)
    assert set(found.image.tolist()) == {3}
    assert set(found.category.tolist()) == {1}
    centres = found.box[:, :2] + torch.stack((found.column, found.row), 1)
    assert torch.allclose(centres, torch.tensor([x, y]))
    assert torch.allclose(found.box[:, 2:], torch.tensor([2.0, 2.0]))


@pytest.mark.parametrize(
    ("factor", "matches"), [(3.99, True), (4.0, False), (1 / 3.99, True), (0.25, False), (0.0, False)]
)
def test_an_anchor_matches_strictly_below_the_threshold(factor: float, matches: bool) -> None:
    for size in ((2 * factor, 2.0), (2.0, 2 * factor)):
        targets = torch.tensor([[0.0, 0, 2.5 / 8, 2.5 / 8, size[0] / 8, size[1] / 8]])
        assert bool(len(match(targets, torch.tensor([[2.0, 2.0]]), 8, 8, 4.0).image)) is matches


def test_the_best_of_several_claims_is_the_objectness_target() -> None:
    """Two objects in one cell, the better fitting one first and last: the same loss."""
    targets = torch.tensor([[0, 0, 20 / 64, 28 / 64, 10 / 64, 13 / 64], [0, 1, 20 / 64, 28 / 64, 8 / 64, 9 / 64]])
    loss, levels = criterion(2, anchor_t=1.5), levels_of(torch.tensor([0.0, 0, 0, 0, 1, 0, 0]), images=1)
    items = [loss({"levels": levels}, batch_of(order))[1]["obj_loss"] for order in (targets, targets.flip(0))]
    assert torch.equal(items[0], items[1])
    softplus = math.log(1 + math.e)
    assert float(items[0]) == pytest.approx(0.01 * (5.4 * softplus - 4 * 1 / (3 * 64)), abs=1e-7)


# ------------------------------------------------------------------------------------------------ by a reference


def example(nc: int, height: int = 64, width: int = 96) -> tuple[list[Tensor], Tensor]:
    """Returns random raw maps of two images, and six objects of many sizes."""
    generator = torch.Generator().manual_seed(nc)
    levels = [
        torch.randn(2, 3 * (5 + nc), height // s, width // s, generator=generator, dtype=torch.float64)
        for s in (8, 16, 32)
    ]
    sizes = torch.tensor([[9.0, 12], [17, 33], [40, 25], [60, 60], [90, 50], [3, 20]])
    centres = 0.1 + 0.8 * torch.rand(6, 2, generator=generator)
    images, classes = torch.tensor([0.0, 1, 1, 0, 1, 0]), torch.arange(6.0) % nc
    targets = torch.cat((images[:, None], classes[:, None], centres, sizes / torch.tensor([width, height])), 1)
    return levels, targets.double()


def five(levels: list[Tensor]) -> list[np.ndarray]:
    return [level.detach().view(2, 3, -1, *level.shape[2:]).numpy() for level in levels]


GAINS: list[dict[str, float]] = [
    {},
    {"box": 0.02, "cls": 0.21638, "obj": 0.51728, "cls_pw": 0.5, "obj_pw": 0.67198, "anchor_t": 3.3744},
]


@pytest.mark.parametrize("gains", GAINS, ids=["default", "hyp.VOC"])
@pytest.mark.parametrize("nc", [1, 3])
def test_values_and_gradients_are_those_of_plain_loops_and_differences(nc: int, gains: dict[str, float]) -> None:
    levels, targets = example(nc)
    for level in levels:
        level.requires_grad_()
    loss, items = criterion(nc, imgsz=96, **gains)({"levels": levels}, batch_of(targets))
    expected, terms, constants = reference.loss(five(levels), targets.numpy(), imgsz=96, **gains)
    assert len(constants.alphas) > 20
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-6)
    assert [float(item) for item in items.values()] == pytest.approx(list(terms), rel=1e-6)

    loss.backward()
    places = (
        [  # every output of two pairs of each level, and some outputs without a target
            (pair[0], pair[2], pair[3], output, pair[4], pair[5])
            for level in range(3)
            for pair in [key[1] for key in constants.alphas if key[0] == level][:2]
            for output in range(5 + nc)
        ]
        + [(level, image, anchor, 4, 0, 0) for level in range(3) for image in range(2) for anchor in range(3)]
    )
    step = 1e-5
    for level, *place in places:
        ends = []
        for sign in (1, -1):
            moved = [one.copy() for one in five(levels)]
            moved[level][tuple(place)] += sign * step
            ends.append(reference.loss(moved, targets.numpy(), imgsz=96, constants=constants, **gains)[0])
        image, anchor, output, row, column = place
        gradient = levels[level].grad
        assert gradient is not None
        found = float(gradient[image, anchor * (5 + nc) + output, row, column])
        assert found == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4, abs=1e-7), (level, place)
    touched = [(pair[0], *pair[2:]) for _, pair in constants.alphas]
    others = torch.ones_like(levels[0].view(2, 3, -1, *levels[0].shape[2:]), dtype=torch.bool)
    for level, image, anchor, row, column in touched:
        if level == 0:
            others[image, anchor, :, row, column] = False
    others[:, :, 4] = False
    assert not levels[0].grad.view_as(others)[others].any(), "an output without a target has a box or class gradient"


def test_a_wrong_gain_would_be_noticed() -> None:
    levels, targets = example(3)
    loss, _ = criterion(3, imgsz=96)({"levels": levels}, batch_of(targets))
    assert float(loss) != pytest.approx(reference.loss(five(levels), targets.numpy(), imgsz=128)[0], rel=1e-3)


# ------------------------------------------------------------------------------------------------ what it meets


def test_images_without_objects() -> None:
    levels, _ = example(3)
    for level in levels:
        level.requires_grad_()
    loss, items = criterion(3)({"levels": levels}, batch_of(torch.zeros(0, 6)))
    assert float(items["box_loss"]) == float(items["cls_loss"]) == 0
    assert float(items["obj_loss"]) > 0
    loss.backward()
    assert all(bool(level.grad.isfinite().all()) for level in levels if level.grad is not None)


@pytest.mark.parametrize("logit", [-40.0, -60.0, -1e4, 1e4])
def test_outputs_of_a_network_that_runs_away_have_a_loss_and_a_gradient(logit: float) -> None:
    """Below some -50 a box is 0 wide and high in float32, and CIoU divides the one by the other."""
    _, targets = example(3)
    levels = [level.requires_grad_() for level in levels_of(torch.tensor([logit] * 8), images=2)]
    loss, items = criterion(3)({"levels": levels}, batch_of(targets.float()))
    loss.backward()
    assert all(bool(item.isfinite()) for item in items.values())
    assert all(bool(level.grad.isfinite().all()) for level in levels if level.grad is not None)


def test_outputs_of_eval_mode_are_taken_too() -> None:
    levels, targets = example(3)
    loss = criterion(3)
    expected = loss({"levels": levels}, batch_of(targets))[0]
    assert torch.equal(loss((torch.zeros(1), {"levels": levels}), batch_of(targets))[0], expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_outputs_under_autocast_are_computed_in_float32(dtype: torch.dtype) -> None:
    levels, targets = example(3)
    rounded = [level.to(dtype) for level in levels]
    loss = criterion(3)
    expected = loss({"levels": [level.float() for level in rounded]}, batch_of(targets.float()))[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, items = loss({"levels": rounded}, batch_of(targets.float()))
    assert found.dtype == items["obj_loss"].dtype == torch.float32
    assert torch.equal(found, expected)


def test_channels_last_and_order_of_targets_change_nothing() -> None:
    levels, targets = example(3)
    loss = criterion(3)
    expected = float(loss({"levels": levels}, batch_of(targets))[0])
    last = [level.contiguous(memory_format=torch.channels_last) for level in levels]
    assert float(loss({"levels": last}, batch_of(targets.flip(0)))[0]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("arguments", [{"imgsz": 320}, SimpleNamespace(imgsz=320)])
def test_the_model_gives_this_loss_with_its_own_gains(arguments: Any) -> None:
    model = build(bits=32, head={"kind": "anchor", "box": 0.02})
    model.args = arguments
    loss = model.init_criterion()
    assert isinstance(loss, AnchorLoss)
    assert loss.gains == pytest.approx((0.02, 0.25, 0.5 * 4 / 80))
    plain = build(bits=32)
    plain.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5)
    assert type(plain.init_criterion()).__name__ == "v8DetectionLoss"
