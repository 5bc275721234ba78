"""Check of a model YAML before Ultralytics builds the model: Ultralytics evaluates some of its text as Python.

Ultralytics passes ``activation`` to ``eval``, and looks layers up by name among all names of its module, functions that
load files or install packages included. Every model that this package builds passes `check_model_yaml`, whether its
YAML comes from a file, a checkpoint or a safetensors checkpoint.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

import torchvision.ops
from torch import nn
from ultralytics.nn import tasks

from qreg_yolo.errors import ModelError

ACTIVATIONS = frozenset(
    [
        "CELU", "ELU", "GELU", "Hardsigmoid", "Hardswish", "Hardtanh", "Identity", "LeakyReLU", "LogSigmoid", "Mish",
        "PReLU", "ReLU", "ReLU6", "RReLU", "SELU", "SiLU", "Sigmoid", "Softplus", "Softsign", "Tanh",
    ]
)  # fmt: skip
"""Allowed classes of ``torch.nn`` for ``activation``."""
_HOMES = ("torch.nn.modules.", "torchvision.ops.", "ultralytics.nn.modules.")
"""Packages of allowed layers."""


def check_model_yaml(description: Mapping[str, Any], source: str) -> None:
    """Raises unless a model YAML names only layers and activations, with plain values as arguments.

    Args:
        description: The content of the YAML.
        source: Its origin, for the error text.

    Raises:
        ModelError: A part that is missing or malformed, or that Ultralytics would execute.
    """
    for key in ("backbone", "head"):
        rows = description.get(key)
        if not isinstance(rows, list):
            raise ModelError(f"{source} is not a model YAML: it has no '{key}'.")
        for row in rows:
            _check_row(row, f"{source}, {key}")
    activation = description.get("activation")
    if activation and not _is_activation(activation):
        raise ModelError(
            f"{source}: activation {activation!r:.80} is not one of torch.nn's, such as nn.ReLU() or "
            f"nn.LeakyReLU(0.1). Known: {', '.join(sorted(ACTIVATIONS))}."
        )


def _check_row(row: object, source: str) -> None:
    if not (isinstance(row, (list, tuple)) and len(row) == 4 and isinstance(row[2], str) and isinstance(row[3], list)):
        raise ModelError(f"{source}: {row!r:.80} is not a layer. Write [from, repeats, module, [arguments]].")
    if not _is_layer(row[2]):
        raise ModelError(f"{source}: '{row[2]:.80}' is not a layer that Ultralytics or torch.nn has.")
    if not all(_is_plain(value) for value in (row[0], row[1], row[3])):
        raise ModelError(f"{source}: the values of '{row[2]}' are not plain numbers, texts and lists.")


def _is_layer(name: str) -> bool:
    """Returns whether Ultralytics' lookup of ``name`` gives a layer."""
    for prefix, place in (("nn.", nn), ("torchvision.ops.", torchvision.ops), ("", tasks)):
        if name.startswith(prefix):
            found = getattr(place, name.removeprefix(prefix), None)
            break
    return isinstance(found, type) and issubclass(found, nn.Module) and f"{found.__module__}.".startswith(_HOMES)


def _is_activation(text: object) -> bool:
    match = re.fullmatch(r"(?:torch\.)?nn\.(\w+)\(.*\)", text.strip()) if isinstance(text, str) else None
    if match is None or match[1] not in ACTIVATIONS:
        return False
    try:
        call = ast.parse(str(text).strip(), mode="eval").body
        assert isinstance(call, ast.Call)
        for argument in (*call.args, *(keyword.value for keyword in call.keywords)):
            ast.literal_eval(argument)
    except (AssertionError, MemoryError, RecursionError, SyntaxError, TypeError, ValueError):
        return False
    return isinstance(call.func, ast.Attribute) and ast.unparse(call.func) in (f"nn.{match[1]}", f"torch.nn.{match[1]}")


def _is_plain(value: object, depth: int = 0) -> bool:
    if isinstance(value, (list, tuple)):
        return depth < 8 and all(_is_plain(item, depth + 1) for item in value)
    return value is None or isinstance(value, (bool, int, float, str))
