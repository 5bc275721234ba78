"""Sample of a layer's inputs over all calibration batches, for the initial range of its quantizer."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qreg_yolo.quant.functional import compute_dtype

SAMPLE_SIZE = 2**16
"""Largest number of values that are kept, of all batches together."""


class InputSample:
    """Values of the same share of every batch, and the exact extremes of all values."""

    def __init__(self) -> None:
        self._parts: list[Tensor] = []
        self._share = SAMPLE_SIZE
        self._extremes: Tensor | None = None
        self.finite = True
        """Whether all values were finite."""

    @property
    def seen(self) -> bool:
        """Whether there was a value."""
        return bool(self._parts)

    def add(self, x: Tensor) -> None:
        """Adds a batch of any shape."""
        x = x.detach().to(compute_dtype(x))
        if not x.numel():
            return
        low, high = x.aminmax()  # nan and infinity included
        self.finite = self.finite and bool(torch.isfinite(high - low))
        extremes = torch.stack([low, high])
        seen = extremes if self._extremes is None else torch.cat([self._extremes, extremes])
        self._extremes = torch.stack([seen.min(), seen.max()])
        self._parts.append(_spread(x, self._share))
        if sum(part.numel() for part in self._parts) > SAMPLE_SIZE:
            self._share = max(self._share // 2, 1)
            self._parts = [part[: self._share].clone() for part in self._parts]

    @property
    def has_negative(self) -> bool:
        """Whether a value was negative."""
        return self._extremes is not None and bool(self._extremes[0] < 0)

    def values(self, init: str) -> Tensor:
        """Returns the values that a start is computed from: for `minmax` the two extremes, else the sample, `(n,)`."""
        assert self._extremes is not None
        return self._extremes if init == "minmax" else torch.cat(self._parts)


def _spread(x: Tensor, count: int) -> Tensor:
    """Returns ``count`` values of ``x`` (all if it has fewer), from the same places every time.

    The places are multiples of the golden section of the size, modulo the size. They, and any number of the first of
    them, spread evenly over the tensor and along each axis. A plain stride that is a multiple of the width would read
    a single column.
    """
    size = x.numel()
    stride = round(size * (math.sqrt(5.0) - 1.0) / 2.0)
    while math.gcd(stride, size) != 1:
        stride += 1
    places = torch.arange(min(count, size), device=x.device).mul_(stride).remainder_(size)
    return x.flatten()[places]
