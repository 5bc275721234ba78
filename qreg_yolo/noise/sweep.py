"""The quantizations that a noise study compares: methods by widths, as validated values (no torch)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from qreg_yolo.errors import InvalidValueError
from qreg_yolo.quant.spec import FLOAT_BITS, QuantSpec

_LEAST_DRAWS = 4
"""Fewer give no interval worth the name."""
_SHARED = ("pact", "dorefa")
"""Methods whose weights are quantized alike (PACT is about activations)."""


@dataclass(frozen=True)
class Variant:
    """One quantization of the weights; activations are not touched."""

    method: str
    """The first asked for of those that quantize weights this way."""
    shared_with: tuple[str, ...]
    """The others of them."""
    bits: int
    """1..8, or 32: as they are."""
    spec: QuantSpec


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Methods, widths, and the sampling of the loss.

    Raises:
        ValueError: An unknown method (the nearest is named), a width other than 1..8 and 32, one that is given twice,
            none at all, too few draws, or a negative seed.
    """

    methods: tuple[str, ...] = ("lsq", "pact", "dorefa")
    """`lsq` | `lsq+` | `pact` | `dorefa`."""
    bits: tuple[int, ...] = (2, 4, 8)
    """Widths of the weights, 1..8 or 32."""
    first_last_bits: int | str | None = None
    """First and last layers, as `QuantSpec.first_last_bits`."""
    per_channel: bool = False
    """One step per output channel."""
    draws: int = 16
    """Random perturbations of each distribution, 4 or more; each is used with both signs."""
    seed: int = 0
    """Seed of the perturbations."""

    def __post_init__(self) -> None:
        for name, values in (("methods", self.methods), ("bits", self.bits)):
            if not values or len(set(values)) < len(values):
                shown = ",".join(map(str, values))
                raise InvalidValueError(f"{name}={shown!r}: give at least one, and each once.")
        if self.draws < _LEAST_DRAWS:
            raise InvalidValueError(f"draws={self.draws}: give {_LEAST_DRAWS} or more, or there is no interval.")
        if self.seed < 0:
            raise InvalidValueError(f"seed={self.seed}: give 0 or more.")
        for method in self.methods:
            for bits in self.bits:
                self._spec(method, bits)

    def variants(self) -> Iterator[Variant]:
        """Yields the variants to measure, method by method; one that several methods share comes once."""
        shown = set()
        for method in self.methods:
            for bits in self.bits:
                alike = self.methods if bits == FLOAT_BITS else _SHARED if method in _SHARED else (method,)
                same = tuple(m for m in self.methods if m in alike)
                if (same, bits) not in shown:
                    shown.add((same, bits))
                    others = tuple(m for m in same if m != method)
                    yield Variant(method, others, bits, self._spec(method, bits))

    def _spec(self, method: str, bits: int) -> QuantSpec:
        return QuantSpec(
            method=method, weight_bits=bits, act_bits=FLOAT_BITS, init="paper", first_last_bits=self.first_last_bits,
            per_channel=self.per_channel,
        )  # fmt: skip
