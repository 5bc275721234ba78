"""The loss of the anchor head once more: plain loops over numbers in float64, from the published definition.

CIoU's weight alpha and the objectness targets are constants to the gradient, so they can be handed in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

ANCHORS = [[(10, 13), (16, 30), (33, 23)], [(30, 61), (62, 45), (59, 119)], [(116, 90), (156, 198), (373, 326)]]
STRIDES = (8, 16, 32)
BALANCE = (4.0, 1.0, 0.4)
Level = NDArray[np.float64]
"""`(b, 3, 5 + nc, h, w)`."""
Pair = tuple[int, int, int, int, int, int]
"""Level, target, image, anchor, row, column."""


def sigmoid(t: float) -> float:
    return 1 / (1 + math.exp(-t))


def cross_entropy(t: float, target: float, positive: float = 1.0) -> float:
    p = sigmoid(t)
    return -(positive * target * math.log(p) + (1 - target) * math.log(1 - p))


def ciou(pred: tuple[float, ...], target: tuple[float, ...], alpha: float | None = None) -> tuple[float, float]:
    """Returns CIoU of two boxes (xywh), and the alpha that was used."""
    (x1, y1, w1, h1), (x2, y2, w2, h2) = pred, target
    overlap = [
        max(min(a + s / 2, b + t / 2) - max(a - s / 2, b - t / 2), 0)
        for a, s, b, t in ((x1, w1, x2, w2), (y1, h1, y2, h2))
    ]
    enclosing = [
        max(a + s / 2, b + t / 2) - min(a - s / 2, b - t / 2) for a, s, b, t in ((x1, w1, x2, w2), (y1, h1, y2, h2))
    ]
    inter = overlap[0] * overlap[1]
    iou = inter / (w1 * h1 + w2 * h2 - inter)
    distance = ((x1 - x2) ** 2 + (y1 - y2) ** 2) / (enclosing[0] ** 2 + enclosing[1] ** 2)
    v = 4 / math.pi**2 * (math.atan(w2 / h2) - math.atan(w1 / h1)) ** 2
    if alpha is None:
        alpha = v / (1 - iou + v)
    return iou - distance - alpha * v, alpha


def pairs_of(targets: Level, level: int, height: int, width: int, anchor_t: float) -> list[Pair]:
    """Returns which outputs of a level answer for which targets `(n, 6)`."""
    found = []
    for number, (image, _, x, y, w, h) in enumerate(targets):
        x, y, w, h = x * width, y * height, w * width, h * height
        cells = [(math.floor(x), math.floor(y))]
        if x % 1 < 0.5 and x > 1:
            cells.append((math.floor(x) - 1, math.floor(y)))
        if y % 1 < 0.5 and y > 1:
            cells.append((math.floor(x), math.floor(y) - 1))
        if x % 1 > 0.5 and width - x > 1:
            cells.append((math.floor(x) + 1, math.floor(y)))
        if y % 1 > 0.5 and height - y > 1:
            cells.append((math.floor(x), math.floor(y) + 1))
        for anchor, (aw, ah) in enumerate(ANCHORS[level]):
            ratios = (w * STRIDES[level] / aw, h * STRIDES[level] / ah)
            if max(max(r, 1 / r) for r in ratios) < anchor_t:
                found += [(level, number, int(image), anchor, row, column) for column, row in cells]
    return found


@dataclass
class Constants:
    """What the gradient does not look through."""

    alphas: dict[tuple[int, Pair], float] = field(default_factory=dict)
    present: list[Level] = field(default_factory=list)


def loss(
    levels: list[Level],
    targets: Level,
    *,
    imgsz: int,
    box: float = 0.05,
    obj: float = 1.0,
    cls: float = 0.5,
    cls_pw: float = 1.0,
    obj_pw: float = 1.0,
    anchor_t: float = 4.0,
    constants: Constants | None = None,
) -> tuple[float, tuple[float, float, float], Constants]:
    """Returns the loss, its three terms, and what was constant; as given, where ``constants`` are."""
    nc = levels[0].shape[2] - 5
    given, constants = constants, constants or Constants()
    terms = [0.0, 0.0, 0.0]
    for level, out in enumerate(levels):
        batch, _, _, height, width = out.shape
        present = np.zeros((batch, 3, height, width))
        boxes, classes = [], []
        for pair in pairs_of(targets, level, height, width, anchor_t):
            _, number, image, anchor, row, column = pair
            t = out[image, anchor, :, row, column]
            aw, ah = (side / STRIDES[level] for side in ANCHORS[level][anchor])
            pred = (
                2 * sigmoid(t[0]) - 0.5 + column,
                2 * sigmoid(t[1]) - 0.5 + row,
                (2 * sigmoid(t[2])) ** 2 * aw,
                (2 * sigmoid(t[3])) ** 2 * ah,
            )
            x, y, w, h = targets[number, 2:]
            overlap, alpha = ciou(
                pred, (x * width, y * height, w * width, h * height), given.alphas[level, pair] if given else None
            )
            constants.alphas[level, pair] = alpha
            present[image, anchor, row, column] = max(present[image, anchor, row, column], overlap)
            boxes.append(1 - overlap)
            wanted = [float(one == int(targets[number, 1])) for one in range(nc)]
            classes += [cross_entropy(t[5 + one], wanted[one], cls_pw) for one in range(nc)]
        if given:
            present = given.present[level]
        else:
            constants.present.append(present)
        objectness = [cross_entropy(t, p, obj_pw) for t, p in zip(out[:, :, 4].ravel(), present.ravel(), strict=True)]
        terms[0] += sum(boxes) / len(boxes) if boxes else 0.0
        terms[1] += BALANCE[level] * sum(objectness) / len(objectness)
        terms[2] += sum(classes) / len(classes) if classes and nc > 1 else 0.0
    scaled = (box * terms[0], obj * (imgsz / 640) ** 2 * terms[1], cls * nc / 80 * terms[2])
    return sum(scaled) * levels[0].shape[0], scaled, constants
