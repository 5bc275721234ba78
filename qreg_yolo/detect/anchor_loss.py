"""Loss of YOLOv5's anchor head: CIoU of boxes, objectness with the IoU as target, cross-entropy of classes.

Written from the published definition of YOLOv5 6.0 (doi 10.5281/zenodo.5563715).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.metrics import bbox_iou

from qreg_yolo.config.detection import HeadConfig
from qreg_yolo.detect.anchor_head import BOX_ROWS, AnchorDetect

BALANCE = (4.0, 1.0, 0.4)
"""Weight of the objectness loss by level, fine to coarse."""
_SMALLEST = 1e-12
"""Smallest width and height of a predicted box, cells: CIoU divides by them, and extreme logits round them to 0."""
_STEPS = ((0.0, 0.0), (-0.5, 0.0), (0.0, -0.5), (0.5, 0.0), (0.0, 0.5))
"""Offsets from an object's centre to its candidate cells (x, y in cells): its own, left, upper, right, lower."""


@dataclass(frozen=True)
class Matches:
    """The m pairs of an output of a level and its object; tensors are `(m,)` unless stated."""

    image: Tensor
    """Index in the batch."""
    anchor: Tensor
    row: Tensor
    column: Tensor
    category: Tensor
    """Class of the object."""
    box: Tensor
    """`(m, 4)`, xywh in cells; the centre relative to the cell's corner, -0.5 to 1.5."""


def match(targets: Tensor, anchor_cells: Tensor, height: int, width: int, anchor_t: float) -> Matches:
    """Returns the pairs of a level.

    An anchor matches an object if both width and height differ by a factor below ``anchor_t``. The object is predicted
    by the cell of its centre and by the nearer neighbour in x and in y, if the grid has them.

    Args:
        targets: `(n, 6)`: image, class, xywh in fractions of the image.
        anchor_cells: `(anchor, 2)`: width and height in cells.
        height: Rows of the grid.
        width: Columns of the grid.
        anchor_t: Above 1.
    """
    grid = targets.new_tensor([width, height])
    xy, wh = targets[:, 2:4] * grid, targets[:, 4:6] * grid
    ratio = wh / anchor_cells[:, None]
    anchor, target = (torch.maximum(ratio, 1 / ratio).amax(2) < anchor_t).nonzero(as_tuple=True)
    xy, wh = xy[target], wh[target]
    rest = grid - xy  # to the far border
    near = [(xy % 1 < 0.5) & (xy > 1), (rest % 1 < 0.5) & (rest > 1)]
    chosen = torch.cat((torch.ones_like(near[0][:, :1]), *near), 1)
    pair, step = chosen.nonzero(as_tuple=True)
    cell = (xy[pair] + xy.new_tensor(_STEPS)[step]).floor()
    cell = torch.minimum(cell.clamp(min=0), grid - 1)
    column, row = cell.long().unbind(1)
    image, category = targets[target[pair], :2].long().unbind(1)
    return Matches(image, anchor[pair], row, column, category, torch.cat((xy[pair] - cell, wh[pair]), 1))


def boxes_in_cells(outputs: Tensor, anchor_cells: Tensor) -> Tensor:
    """Returns boxes `(..., 4)`, xywh in cells, the centre relative to the cell's corner.

    Args:
        outputs: `(..., 4 or more)`: x, y, width, height before the sigmoid.
        anchor_cells: `(..., 2)`: width and height of each output's anchor, cells.
    """
    xy = 2 * outputs[..., :2].sigmoid() - 0.5
    wh = ((2 * outputs[..., 2:4].sigmoid()) ** 2 * anchor_cells).clamp(min=_SMALLEST)
    return torch.cat((xy, wh), -1)


class AnchorLoss:
    """Criterion of a detector with an `AnchorDetect` head.

    Each term is a mean over a level's pairs (objectness: over all outputs), summed over the levels, times its gain. The
    gains refer to 3 levels, 80 classes and 640 px, and are scaled to others: ``box * 3 / nl``,
    ``cls * nc / 80 * 3 / nl``, ``obj * (imgsz / 640)^2 * 3 / nl``.

    Deviates: if several objects match one output, its objectness target is the largest IoU (YOLOv5: the last one
    written).

    Args:
        model: Has the training's image size in its ``args``.
        config: The gains.
    """

    def __init__(self, model: DetectionModel, config: HeadConfig) -> None:
        self.head: AnchorDetect = model.model[-1]
        arguments = model.args if isinstance(model.args, Mapping) else vars(model.args)
        levels, size = 3 / self.head.nl, int(arguments["imgsz"]) / 640
        self.gains = (config.box * levels, config.obj * size**2 * levels, config.cls * self.head.nc / 80 * levels)
        self.obj_pw, self.cls_pw, self.anchor_t = config.obj_pw, config.cls_pw, config.anchor_t

    def __call__(self, preds: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the loss times the number of images, and its three terms (detached, not multiplied).

        Args:
            preds: Output of the head, in training or in eval mode.
            batch: Ultralytics': ``batch_idx`` `(n,)`, ``cls`` `(n, 1)`, ``bboxes`` `(n, 4)`, xywh in fractions.
        """
        levels = (preds[1] if isinstance(preds, (list, tuple)) else preds)["levels"]
        with torch.autocast(levels[0].device.type, enabled=False):
            outputs = [self.head.by_anchor(level) for level in levels]
            columns = (batch["batch_idx"].view(-1, 1), batch["cls"].view(-1, 1), batch["bboxes"])
            targets = torch.cat([column.to(outputs[0]) for column in columns], 1)
            terms = torch.stack([self._level(out, targets, index) for index, out in enumerate(outputs)]).sum(0)
            box, objectness, classes = (gain * term for gain, term in zip(self.gains, terms, strict=True))
            items = {"box_loss": box.detach(), "obj_loss": objectness.detach(), "cls_loss": classes.detach()}
            return (box + objectness + classes) * len(outputs[0]), items

    def _level(self, outputs: Tensor, targets: Tensor, index: int) -> Tensor:
        """Returns the means of box, objectness (weighted by level) and class loss of `(b, anchor, 5 + nc, h, w)`."""
        anchors = (self.head.anchor_wh[index] / self.head.stride[index]).to(outputs)
        height, width = outputs.shape[3:]
        found = match(targets, anchors, height, width, self.anchor_t)
        present = outputs.new_zeros(outputs[:, :, 4].shape)
        box = classes = outputs.new_zeros(())
        if len(found.image):
            picked = outputs[found.image, found.anchor, :, found.row, found.column]
            iou = bbox_iou(boxes_in_cells(picked, anchors[found.anchor]), found.box, CIoU=True).squeeze(1)
            box = (1 - iou).mean()
            places = torch.arange(present.numel(), device=present.device).view(present.shape)
            claims = places[found.image, found.anchor, found.row, found.column]
            present.view(-1).scatter_reduce_(0, claims, iou.detach(), "amax")  # `present` is 0 elsewhere
            if self.head.nc > 1:
                wanted = F.one_hot(found.category, self.head.nc).to(picked)
                classes = _cross_entropy(picked[:, BOX_ROWS:], wanted, self.cls_pw)
        objectness = _cross_entropy(outputs[:, :, 4], present, self.obj_pw)
        return torch.stack((box, BALANCE[index] * objectness, classes))


def _cross_entropy(logits: Tensor, targets: Tensor, positive: float) -> Tensor:
    """Returns the mean binary cross-entropy, positive targets weighted."""
    weight = None if positive == 1 else logits.new_tensor(positive)
    return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight)
