"""YOLOv5 weights: files of the YOLOv5 repository, official or user-trained, read without its code."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qreg_yolo.detect.anchor_head import BOX_ROWS, N_ANCHORS, STRIDES
from qreg_yolo.errors import WeightsError
from qreg_yolo.io.pickles import Placeholder, StoredTensor
from qreg_yolo.io.torch_archive import TorchArchive

_MAX_DEPTH = 32
"""Most nested modules; YOLOv5 has 7."""
_OUTPUT = re.compile(r"(model\.\d+)\.m\.0\.weight")
"""The first output convolution of an anchor head."""


@dataclass(frozen=True)
class YOLOv5Weights:
    """The tensors of a model of the YOLOv5 repository, floating-point ones in float32."""

    path: Path
    tensors: dict[str, Tensor]
    """Parameters and buffers under the names of a ``state_dict``."""
    names: tuple[str, ...] = ()
    """The classes; empty: not in the file."""
    activation: str | None = None
    """``activation`` of the model's YAML; None: SiLU."""

    @property
    def head(self) -> str | None:
        """Full name of the anchor head, such as `model.24`; None without one."""
        return next((match[1] for name in self.tensors if (match := _OUTPUT.fullmatch(name))), None)

    def class_names(self) -> tuple[str, ...]:
        """Returns the class names of the head; their numbers if the file's names do not fit."""
        outputs = self.tensors[f"{self.head}.m.0.weight"].shape[0]
        count = outputs // N_ANCHORS - BOX_ROWS
        return self.names if len(self.names) == count else tuple(map(str, range(count)))

    def for_anchor_head(self) -> dict[str, Tensor]:
        """Returns the tensors under our names, anchors in px instead of cells."""
        tensors = {name: tensor for name, tensor in self.tensors.items() if not name.endswith(".anchor_grid")}
        anchors = tensors.pop(f"{self.head}.anchors", None)
        if anchors is not None and anchors.shape[:1] == (len(STRIDES),):
            tensors[f"{self.head}.anchor_wh"] = anchors * anchors.new_tensor(STRIDES).view(-1, 1, 1)
        return tensors

    def fitting(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the tensors that match a model's ``state_dict`` by name and shape.

        Raises:
            WeightsError: No convolution matches.
        """
        found = {
            name: tensor
            for name, tensor in self.for_anchor_head().items()
            if name in state and state[name].shape == tensor.shape
        }
        if not any(tensor.ndim == 4 for tensor in found.values()):  # counters and anchors fit any network
            first = next((name for name in self.tensors if name in state), None)
            example = (
                f"'{first}' is {list(self.tensors[first].shape)} there and {list(state[first].shape)} here"
                if first
                else f"its first is '{next(iter(self.tensors), 'missing')}', the model's '{next(iter(state))}'"
            )
            raise WeightsError(
                f"'{self.path}' (YOLOv5 weights) has {len(self.tensors)} tensors, but no convolution fits the "
                f"model by name and shape: {example}. Give the --model of the same size, such as yolov5s.yaml for "
                "yolov5s.pt."
            )
        return found

    def summary(self, found: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
        """Returns one line on the transferred and the untrained tensors of a model."""
        left = Counter(".".join(name.split(".")[:2]) for name in state if name not in found)
        rest = ", ".join(f"{layer} ({count})" for layer, count in left.items())
        return (
            f"Transferred {len(found)} of {len(state)} tensors from '{self.path.name}' (YOLOv5 weights); "
            f"untrained: {rest or 'none'}"
        )


def read_yolov5(archive: TorchArchive, path: Path) -> YOLOv5Weights:
    """Returns the weights of a file, those of the average over training (``ema``) if it has one.

    Raises:
        WeightsError: No model, or a malformed one.
        PickleError: A tensor outside the file.
    """
    content = archive.content
    model = (content.get("ema") or content.get("model")) if isinstance(content, dict) else content
    if not isinstance(model, Placeholder):
        raise WeightsError(f"'{path}' is of the YOLOv5 repository, but has no model under 'ema' or 'model'.")
    tensors = {}
    for name, stored in _named_tensors(model, "", 0):
        values = torch.from_numpy(archive.array(stored))
        tensors[name] = values.float() if values.is_floating_point() else values
    state = model.state if isinstance(model.state, dict) else {}
    yaml = state.get("yaml")
    activation = yaml.get("activation") if isinstance(yaml, dict) else None
    return YOLOv5Weights(path, tensors, _names(state.get("names")), activation)


def _names(names: Any) -> tuple[str, ...]:
    """Returns the classes of a file, a list or a dictionary with numbers from 0."""
    if isinstance(names, dict) and sorted(names, key=str) == sorted(range(len(names)), key=str):
        names = [names[place] for place in range(len(names))]
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _named_tensors(module: Placeholder, prefix: str, depth: int) -> Iterator[tuple[str, StoredTensor]]:
    """Yields the entries of ``state_dict``: parameters and persistent buffers, then those of inner modules."""
    state = module.state if isinstance(module.state, dict) else {}
    if depth > _MAX_DEPTH:
        raise WeightsError(f"The file's modules are nested more than {_MAX_DEPTH} deep at '{prefix[:80]}'.")
    hidden = state.get("_non_persistent_buffers_set") or ()
    for kind in ("_parameters", "_buffers"):
        for name, value in _entries(state, kind):
            if isinstance(value, StoredTensor) and name not in hidden:
                yield f"{prefix}{name}", value
    for name, inner in _entries(state, "_modules"):
        if isinstance(inner, Placeholder):
            yield from _named_tensors(inner, f"{prefix}{name}.", depth + 1)


def _entries(state: dict[str, Any], kind: str) -> list[tuple[str, Any]]:
    entries = state.get(kind)
    return [(str(name), value) for name, value in entries.items()] if isinstance(entries, dict) else []
