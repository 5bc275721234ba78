"""Makes checkpoints as others would: hostile ones, and YOLOv5's, whose classes are gone when they are read."""

from __future__ import annotations

import datetime
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn


class Evil:
    """Whoever unpickles it makes the folder ``marker``."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@contextmanager
def classic_packages() -> Iterator[dict[str, ModuleType]]:
    """Puts empty packages ``models.yolo`` and ``models.common`` in place for the time of the block."""
    packages = {name: ModuleType(name) for name in ("models", "models.yolo", "models.common")}
    assert not packages.keys() & sys.modules.keys()
    sys.modules.update(packages)
    try:
        yield packages
    finally:
        for name in packages:
            del sys.modules[name]


def write_classic(
    path: Path,
    *,
    nc: int = 4,
    model: str = "yolov5n.yaml",
    names: list[str] | dict[int, str] | None = None,
    whole_class: str = "DetectionModel",
    activation: str | None = None,
    **more: Any,
) -> dict[str, torch.Tensor]:
    """Writes a user-trained YOLOv5 checkpoint; returns the tensors of its average, as it was saved (fp16).

    Backbone and neck are Ultralytics' (names and shapes are the same), re-classed; the head has YOLOv5's anchors, in
    cells. ``names=list`` and ``whole_class="Model"`` are the layout of version 6.0.
    """
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(5)
    net = DetectionModel(model, nc=nc, verbose=False)
    with classic_packages() as packages:

        def classic_class(name: str, home: str = "models.common") -> type[nn.Module]:
            if not hasattr(packages[home], name):
                setattr(packages[home], name, type(name, (nn.Module,), {"__module__": home}))
            return getattr(packages[home], name)

        for module in net.modules():
            if type(module).__module__.startswith("ultralytics.nn.modules"):
                module.__class__ = classic_class(type(module).__name__)
        head = classic_class("Detect", "models.yolo")()
        pixels = [[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119], [116, 90, 156, 198, 373, 326]]
        cells = torch.tensor(pixels).view(3, 3, 2) / torch.tensor([8, 16, 32]).view(3, 1, 1)
        head.register_buffer("anchors", cells)
        head.register_buffer("grid", torch.zeros(1), persistent=False)
        widths = [branch[0].conv.in_channels for branch in net.model[-1].cv2]
        head.m = nn.ModuleList(nn.Conv2d(channels, 3 * (5 + nc), 1) for channels in widths)
        whole = classic_class(whole_class, "models.yolo")()
        whole.model = nn.Sequential(*net.model[:-1], head)
        whole.yaml, whole.hyp = {"nc": nc} | ({"activation": activation} if activation else {}), {"lr0": 0.01}
        whole.names = {i: str(i) for i in range(nc)} if names is None else names
        optimizer = torch.optim.SGD(whole.parameters(), lr=0.1, momentum=0.9)
        sum(parameter.sum() for parameter in whole.parameters()).backward()
        optimizer.step()
        optimizer.zero_grad()
        checkpoint = {
            "epoch": 3,
            "best_fitness": np.array([0.25])[0],
            "model": None,
            "ema": whole.half(),
            "updates": 40,
            "optimizer": optimizer.state_dict(),
            "opt": {"save_dir": Path("runs/exp"), "data": "coco.yaml", "batch_size": 16},
            "git": {"branch": "master"},
            "date": datetime.datetime(2023, 5, 1).isoformat(),
        }
        torch.save({**checkpoint, **more}, path)
        return {name: tensor.clone() for name, tensor in whole.state_dict().items()}
