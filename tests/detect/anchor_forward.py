"""YOLOv5n's forward pass once more, from the tensors of a classic file alone."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def conv(x: Tensor, state: dict[str, Tensor], name: str, stride: int = 1) -> Tensor:
    """Convolution, BatchNorm and SiLU, from the tensors under ``name``."""
    weight = state[f"{name}.conv.weight"]
    padding = 2 if weight.shape[-1] == 6 else weight.shape[-1] // 2
    x = F.conv2d(x, weight, None, stride, padding)
    mean, var, gamma, beta = (state[f"{name}.bn.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
    x = (x - mean[:, None, None]) / torch.sqrt(var + 1e-3)[:, None, None] * gamma[:, None, None] + beta[:, None, None]
    return x * torch.sigmoid(x)


def c3(x: Tensor, state: dict[str, Tensor], name: str, n: int, shortcut: bool = True) -> Tensor:
    y = conv(x, state, f"{name}.cv1")
    for number in range(n):
        z = conv(conv(y, state, f"{name}.m.{number}.cv1"), state, f"{name}.m.{number}.cv2")
        y = y + z if shortcut else z
    return conv(torch.cat((y, conv(x, state, f"{name}.cv2")), 1), state, f"{name}.cv3")


def forward(x: Tensor, state: dict[str, Tensor]) -> Tensor:
    """YOLOv5n's answers `(b, n, 5 + nc)`, xywh in px, from its tensors alone; anchors are in cells."""
    up = lambda x: F.interpolate(x, scale_factor=2)  # noqa: E731
    x = conv(conv(x, state, "model.0", 2), state, "model.1", 2)
    x = conv(c3(x, state, "model.2", 1), state, "model.3", 2)
    p3 = c3(x, state, "model.4", 2)
    p4 = c3(conv(p3, state, "model.5", 2), state, "model.6", 3)
    x = conv(c3(conv(p4, state, "model.7", 2), state, "model.8", 1), state, "model.9.cv1")
    pools = [x]
    for _ in range(3):
        pools.append(F.max_pool2d(pools[-1], 5, 1, 2))
    top = conv(conv(torch.cat(pools, 1), state, "model.9.cv2"), state, "model.10")
    middle = conv(c3(torch.cat((up(top), p4), 1), state, "model.13", 1, False), state, "model.14")
    n3 = c3(torch.cat((up(middle), p3), 1), state, "model.17", 1, False)
    n4 = c3(torch.cat((conv(n3, state, "model.18", 2), middle), 1), state, "model.20", 1, False)
    n5 = c3(torch.cat((conv(n4, state, "model.21", 2), top), 1), state, "model.23", 1, False)
    answers = []
    for level, features in enumerate((n3, n4, n5)):
        t = F.conv2d(features, state[f"model.24.m.{level}.weight"], state[f"model.24.m.{level}.bias"])
        b, _, h, w = t.shape
        t = t.view(b, 3, -1, h, w).permute(0, 1, 3, 4, 2).sigmoid()
        ys, xs = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        stride = 8 * 2**level
        t[..., :2] = (t[..., :2] * 2 - 0.5 + torch.stack((xs, ys), -1)) * stride
        t[..., 2:4] = (t[..., 2:4] * 2) ** 2 * state["model.24.anchors"][level][:, None, None] * stride
        answers.append(t.reshape(b, -1, t.shape[-1]))
    return torch.cat(answers, 1)
