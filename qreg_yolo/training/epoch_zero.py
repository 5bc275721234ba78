"""Accuracy of a quantized network before its training: epoch 0 of ``results.csv`` and a record of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from safetensors.torch import save
from torch import nn

from qreg_yolo.training.tensor_file import tensors_of

NAME = "epoch0"
"""Name in the run id of its record."""
_LOST = 0.1
"""Share of the baseline's accuracy below which there is advice."""


@dataclass(frozen=True)
class EpochZero:
    """The measurement."""

    metrics: Mapping[str, float]
    """Columns of ``results.csv``, without those of training."""
    weights_sha256: str
    """SHA-256 of the network's tensors."""

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values that the constructor takes."""
        return asdict(self)

    def row(self, columns: Sequence[str]) -> str:
        """Returns the line of ``results.csv``; the columns of training are empty."""
        cells = {"epoch": "0", "time": "0", **{name: f"{value:.6g}" for name, value in self.metrics.items()}}
        return ",".join(cells.get(column, "") for column in columns)


def digest_of(model: nn.Module) -> str:
    """Returns the SHA-256 of a network's tensors and their names."""
    return hashlib.sha256(save(tensors_of(model))).hexdigest()


def comparison(metric: str, baseline: float, quantized: float) -> str:
    """Returns the accuracies of the baseline and of the untrained network in one line; advice if little is left."""
    line = f"{metric}: fp32 {baseline:.3f}, quantized before training {quantized:.3f}"
    if quantized >= _LOST * baseline:
        return line
    return (
        f"{line}. Little is left: at 4 bits and below training has to win it back. If it does not, use more bits, "
        "--method lsq+ or --per-channel."
    )
