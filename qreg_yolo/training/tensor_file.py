"""Files of tensors with a JSON description: the common part of both tracks' safetensors checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from qreg_yolo.errors import WeightsError

SUFFIX = ".safetensors"


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Returns copies of a model's state on the CPU, contiguous and without shared memory, as safetensors requires."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}


def keys(path: Path) -> set[str]:
    """Returns the keys of a file's metadata, which tell its kind; errors as `read`."""
    try:
        with safe_open(path, framework="pt") as file:
            return set(file.metadata() or {})
    except SafetensorError as error:
        raise WeightsError(f"'{path}' is damaged, cut short or no safetensors file ({error}).") from error


def read(path: Path, header: str, version: int, lacking: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Returns the description and the tensors of a file; nothing in it is executed.

    Args:
        path: The file.
        header: Key of the description in its metadata.
        version: Supported version of the description.
        lacking: Error text about a file without a description, after its name.

    Raises:
        OSError: The file cannot be read.
        WeightsError: A damaged file, or one without such a description.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise WeightsError(f"'{path}' is damaged, cut short or no safetensors file ({error}).") from error
    if header not in metadata:
        raise WeightsError(f"'{path}' {lacking}")
    try:
        found = json.loads(metadata[header])
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"The description in '{path}' is not JSON ({error}).") from error
    stated = found.get("version") if isinstance(found, dict) else None
    if not isinstance(found, dict) or stated != version:
        raise WeightsError(f"The description in '{path}' has version {stated!r:.40}, this qreg-yolo reads {version}.")
    return found, tensors


def fill(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Loads tensors from the file ``path`` into a model; every name, shape and dtype must match.

    Raises:
        WeightsError: A mismatch; the model is unchanged.
    """
    state = model.state_dict()
    for fault, names in (("lacks", state.keys() - tensors.keys()), ("has too much:", tensors.keys() - state.keys())):
        if names:
            raise WeightsError(f"'{path}' does not fit the model: it {fault} '{min(names)[:80]}'.")
    for name, tensor in tensors.items():
        if (tensor.shape, tensor.dtype) != (state[name].shape, state[name].dtype):
            raise WeightsError(
                f"'{path}' does not fit the model: '{name[:80]}' is {tensor.dtype} {list(tensor.shape)}, the model "
                f"has {state[name].dtype} {list(state[name].shape)}."
            )
    model.load_state_dict(dict(tensors))
