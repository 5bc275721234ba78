"""Section ``oscillation`` of both tracks' configurations: ways to hold oscillating weights, all off by default.

The equations are in `qreg_yolo.quant.oscillation`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from qreg_yolo.config.checks import check_number
from qreg_yolo.errors import InvalidValueError
from qreg_yolo.quant.spec import FLOAT_BITS, QuantSpec

KEY = "oscillation"
"""Name of the section."""
FREEZE_FROM = 0.1
"""Frequency above which codes are frozen at the start; the cosine of arXiv 2203.11086 begins there."""


@dataclass(frozen=True, kw_only=True)
class OscillationOptions:
    """Section ``oscillation``: freezing, dampening and transition rates, for weights of `lsq` and `lsq+`.

    Raises:
        ValueError: A value outside its range.
        TypeError: A value that is not a number.
    """

    freeze_codes: float = 0.0
    """Frequency of oscillation above which a code is frozen at the end of training (a cosine from 0.1 to it), 0 to 0.1;
    0: never. Weights of at most 4 bits."""
    dampen: float = 0.0
    """Factor of the dampening loss at the end of training (a cosine from 0 to it), relative to the mean loss of an
    image; 0: none."""
    transition_rate: float = 0.0
    """Factor ``lambda`` of the target ``lambda sqrt(bits)``: share of codes to change per step at the start (a cosine
    from it to 0); 0: the learning rate is the schedule's. Weights of at most 4 bits, whose steps then stay fixed."""
    transition_eta: float = 1.0
    """Change of the latent weights' learning rate per step and unit of difference from the target, as a multiple of the
    initial learning rate; above 0."""

    def __post_init__(self) -> None:
        check_number(self, "freeze_codes", 0.0, FREEZE_FROM)
        check_number(self, "dampen", 0.0)
        check_number(self, "transition_rate", 0.0, 1.0)
        check_number(self, "transition_eta", 0.0, math.inf, above=True)

    @property
    def is_on(self) -> bool:
        """Whether any of the three is on."""
        return bool(self.freeze_codes or self.dampen or self.transition_rate)

    def check_method(self, quant: QuantSpec) -> None:
        """Raises `InvalidValueError` if one is on and the weights have no step, or change their width in stages."""
        if self.is_on and quant.stages:
            raise InvalidValueError(
                "stages change the codes of all weights at once; freeze_codes, dampen and transition_rate hold them. "
                "Leave them out, or give --stages none."
            )
        if self.is_on and quant.weight_bits != FLOAT_BITS and quant.method not in ("lsq", "lsq+"):
            name = next(name for name in ("freeze_codes", "dampen", "transition_rate") if getattr(self, name))
            raise InvalidValueError(
                f"{name}={getattr(self, name)} needs weights with a step, and those of method={quant.method} are "
                f"DoReFa's. Use method lsq or lsq+, or remove {name}."
            )

    def section(self) -> dict[str, dict[str, Any]]:
        """Returns ``{"oscillation": {...}}`` for a configuration; empty by default, as before there was the section."""
        return {} if self == OscillationOptions() else {KEY: asdict(self)}
