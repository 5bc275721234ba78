"""YOLOv5's anchor head: three anchors per cell and level, each with a box, an objectness and class scores.

Ultralytics has only an anchor-free head without objectness, and its parser accepts no other. So a detector is built
with Ultralytics' head, which `put_anchor_head` replaces. Written from the published definition of YOLOv5 6.0
(doi 10.5281/zenodo.5563715); the tensors are named as in its checkpoints, except for the anchors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.nn.modules.head import Detect
from ultralytics.nn.tasks import DetectionModel

from qreg_yolo.errors import ModelError

ANCHORS = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)
"""Width and height of YOLOv5's anchors by level, px, fitted to COCO at 640 px."""
STRIDES = (8, 16, 32)
"""Stride of each level, px per cell."""
N_ANCHORS = len(ANCHORS[0])
"""Anchors per cell."""
BOX_ROWS = 5
"""Outputs of an anchor before its classes: x, y, width, height, objectness."""


class AnchorDetect(Detect):
    """YOLOv5's head, which replaces Ultralytics'.

    The 1x1 convolution of a level has ``3 * (5 + nc)`` outputs. With t the outputs of an anchor of size a in a cell
    with the corner c, and s the stride:

        centre = (2 sigmoid(t_xy) - 0.5 + c) s,  size = (2 sigmoid(t_wh))^2 a,  score = sigmoid(t_obj) sigmoid(t_class)

    Args:
        nc: Number of classes.
        channels: Channels of each level's feature map.
        stride: Stride of each level, `(3,)`, px.
    """

    anchor_wh: Tensor
    """`(level, anchor, 2)`: width and height, px."""
    keep_features = False
    """Whether the raw outputs have the feature maps too, as those of Ultralytics' head have."""

    def __init__(self, nc: int, channels: Sequence[int], stride: Tensor) -> None:
        super(Detect, self).__init__()  # Detect's constructor would make its branches
        self.nc, self.nl, self.na, self.no = nc, len(channels), N_ANCHORS, BOX_ROWS + nc
        self.stride = stride
        self.register_buffer("anchor_wh", torch.tensor(ANCHORS, dtype=torch.float32))  # `anchors` is Ultralytics'
        self.m = nn.ModuleList(nn.Conv2d(width, self.na * self.no, 1) for width in channels)
        self.cv2, self.cv3, self.dfl, self.reg_max = nn.ModuleList(), None, nn.Identity(), 1  # Ultralytics reads them
        self.bias_init()

    def bias_init(self) -> None:
        """Shifts the biases to a prior of 8 objects per 640-px image and equal classes.

        For a single class YOLOv5's formula gives probability 1, which stays: a single class has no loss.
        """
        for conv, stride in zip(self.m, self.stride.tolist(), strict=True):
            assert isinstance(conv.bias, Tensor)
            bias = conv.bias.data.view(self.na, self.no)
            bias[:, 4] += math.log(8 / (640 / stride) ** 2)
            bias[:, BOX_ROWS:] += math.log(0.6 / (self.nc - 0.99999))

    def forward(self, x: list[Tensor]) -> Any:
        """Returns the raw outputs; in eval mode, also the decoded ones.

        Args:
            x: Feature map `(b, c, h, w)` of each level.

        Returns:
            In training ``raw = {"levels": [(b, 3 * (5 + nc), h, w), ...]}`` (and ``"feats": x`` with
            ``keep_features``), else ``(y, raw)``, in export ``y``. ``y`` is `(b, 4 + nc, n)` over all levels: box (px,
            xywh, or xyxy if Ultralytics' export requests it), then objectness times class score.
        """
        levels = [conv(features) for conv, features in zip(self.m, x, strict=True)]
        raw = {"levels": levels, **({"feats": x} if self.keep_features else {})}
        if self.training:
            return raw
        y = torch.cat([self._decoded(level, index) for index, level in enumerate(levels)], 2)
        return y if self.export else (y, raw)

    def by_anchor(self, level: Tensor) -> Tensor:
        """Returns a level's outputs as `(b, anchor, 5 + nc, h, w)`, at least float32."""
        parted = level.view(level.shape[0], self.na, self.no, *level.shape[2:])
        return parted.to(torch.promote_types(level.dtype, torch.float32))

    def _decoded(self, level: Tensor, index: int) -> Tensor:
        outputs = self.by_anchor(level).sigmoid()
        xy, wh, objectness, classes = torch.split(outputs, [2, 2, 1, self.nc], 2)
        height, width = level.shape[2:]
        columns, rows = (torch.arange(n, device=level.device, dtype=outputs.dtype) for n in (width, height))
        corner = torch.stack(torch.meshgrid(columns, rows, indexing="xy"))
        xy = (2 * xy - 0.5 + corner) * self.stride[index]
        wh = (2 * wh) ** 2 * self.anchor_wh[index, :, :, None, None]
        box = (xy - wh / 2, xy + wh / 2) if self.xyxy else (xy, wh)
        return torch.cat((*box, objectness * classes), 2).transpose(1, 2).flatten(2)


def check_levels(model: DetectionModel) -> None:
    """Raises `ModelError` unless the detector has a plain `Detect` head and levels of strides 8, 16 and 32."""
    head, strides = model.model[-1], model.stride.tolist()
    if type(head) is not Detect or head.end2end or getattr(head, "one2one_cv2", None) is not None:
        found = f"a {type(head).__name__} head" + (" with one-to-one branches" if type(head) is Detect else "")
    elif strides != list(STRIDES):
        found = f"levels of strides {', '.join(f'{stride:g}' for stride in strides)}"
    else:
        return
    raise ModelError(
        f"The anchor head needs a detector with a plain Detect head and levels of strides 8, 16 and 32; "
        f"'{model.yaml.get('yaml_file', 'the model')}' has {found}. Use yolov5n.yaml (or s, m, l, x), or the "
        "anchor_free head."
    )


def put_anchor_head(model: DetectionModel) -> None:
    """Replaces a detector's head by an untrained `AnchorDetect`, in place; errors as `check_levels`."""
    check_levels(model)
    old = model.model[-1]
    head = AnchorDetect(old.nc, [branch[0].conv.in_channels for branch in old.cv2], old.stride)
    head.i, head.f, head.type = old.i, old.f, f"{AnchorDetect.__module__}.{AnchorDetect.__name__}"
    head.np = sum(parameter.numel() for parameter in head.parameters())
    model.model[-1] = head
