"""Inspection of a checkpoint: layers, size and cost, as a table or as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from qreg_yolo.quant.report import LayerReport, ModelSize
from qreg_yolo.quant.spec import FLOAT_BITS
from qreg_yolo.terminal import number, table

_WEIGHT_COLUMNS = ("layer", "W bits", "codes", "step", "clipped", "SQNR dB")
_INPUT_COLUMNS = ("A bits", "sign", "step")


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """A checkpoint's layers, size and cost."""

    weights: str
    """The checkpoint's path, as given."""
    label: str
    """Such as `lsq-w4a4`, or `fp32`."""
    imgsz: int
    """Image side the MACs are counted at, pixels."""
    layers: list[LayerReport]
    """One report per convolution and linear layer."""
    size: ModelSize
    """MB at the bit widths, and in fp32."""
    unused_branch: list[str] = field(default_factory=list)
    """Layers of an end-to-end head that inference skips; they are counted like all others."""
    warning: str | None = None
    """A fault of the checkpoint."""

    @property
    def bit_operations(self) -> int:
        """``sum of MACs * weight bits * input bits`` per image."""
        return sum(layer.bit_operations or 0 for layer in self.layers)

    @property
    def float_bit_operations(self) -> int:
        """The same network in fp32."""
        return sum((layer.macs or 0) * FLOAT_BITS * FLOAT_BITS for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON, which has no infinity: the SQNR of a lossless layer is None."""
        return {
            "weights": self.weights,
            "label": self.label,
            "imgsz": self.imgsz,
            **asdict(self.size),
            "bit_operations": self.bit_operations,
            "float_bit_operations": self.float_bit_operations,
            "warning": self.warning,
            "spare_layers": self.unused_branch,
            "layers": [{key: _finite(value) for key, value in layer.to_dict().items()} for layer in self.layers],
        }

    def to_text(self) -> str:
        """Returns a table for a terminal, with a column of offsets if there are any."""
        shifted = any(layer.input_offset is not None for layer in self.layers)
        header = [*_WEIGHT_COLUMNS, *_INPUT_COLUMNS, *(["offset"] if shifted else []), "MMACs"]
        lines = table([header, *(_row(layer, shifted) for layer in self.layers)])
        ratio = self.float_bit_operations / max(self.bit_operations, 1)
        lines += [
            f"{self.label}: {self.size.quantized_mb:.2f} MB at its bit widths, {self.size.float_mb:.2f} MB in fp32",
            f"Bit-operations at {self.imgsz} px: {self.bit_operations / 1e9:.2f} G, 1/{ratio:.1f} of fp32",
        ]
        if self.unused_branch:
            lines.append(self._unused_line())
        return "\n".join([*lines, *([f"Warning: {self.warning}"] if self.warning else [])])

    def _unused_line(self) -> str:
        unused = [layer for layer in self.layers if layer.name in self.unused_branch]
        weights = sum(layer.weights * layer.weight_bits for layer in unused) / 8e6
        operations = sum(layer.bit_operations or 0 for layer in unused) / 1e9
        return (
            f"Both branches of the head are counted; inference skips {len(unused)} of their layers: "
            f"{weights:.2f} MB of weights, {operations:.2f} G bit-operations"
        )


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _row(layer: LayerReport, shifted: bool) -> list[str]:
    clipped = number(layer.weight_clipped, ".1%")
    sign = {True: "signed", False: "unsigned", None: "-"}[layer.input_signed]
    codes = "-" if layer.weight_codes_used is None else str(layer.weight_codes_used)
    return [
        layer.name, str(layer.weight_bits), codes, number(layer.weight_step, ".3g"), clipped,
        number(layer.weight_sqnr_db, ".1f"), str(layer.input_bits),
        sign if layer.input_offset is None else "shifted", number(layer.input_step, ".3g"),
        *([number(layer.input_offset, ".3g")] if shifted else []), f"{(layer.macs or 0) / 1e6:.2f}",
    ]  # fmt: skip


@contextmanager
def one_thread() -> Iterator[None]:
    """Runs the block on one thread: on a busy machine, a second one slows many small tensors down 20 times."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
