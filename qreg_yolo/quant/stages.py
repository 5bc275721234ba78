"""Stages of a training at other widths than the last one's, as frozen values (standard library only)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

from qreg_yolo.errors import InvalidTypeError, InvalidValueError, did_you_mean

FLOAT_BITS = 32
"""Width without a quantizer."""
_TEXT = re.compile(r"(?P<share>[0-9.]+):(?:(?P<fp32>fp32)|w(?P<w>\d+)a(?P<a>\d+)|(?P<bits>\d+))")
_KEYS = ("share", "bits", "weight_bits", "act_bits", "include")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The widths in a share of the epochs, before the last stage, which has the widths that were asked for.

    A width does not go below the last stage's: first and last layers of 8 bits keep 8 in a stage of 4.
    """

    share: float
    """Share of all epochs: above 0, below 1."""
    weight_bits: int
    """1..8, or 32 for full precision."""
    act_bits: int
    """1..8, or 32 for full precision."""
    include: tuple[str, ...] = ()
    """Layer patterns; the other layers are in full precision in this stage. Empty: all layers."""

    @property
    def label(self) -> str:
        """Such as `w4a8`, or `fp32`."""
        return "fp32" if self.weight_bits == self.act_bits == FLOAT_BITS else f"w{self.weight_bits}a{self.act_bits}"

    def widths(self, name: str, weight_bits: int, act_bits: int) -> tuple[int, int]:
        """Returns the widths of a layer in this stage, from those of the last one."""
        if self.include and not any(fnmatchcase(name, pattern) for pattern in self.include):
            return FLOAT_BITS, FLOAT_BITS
        return max(self.weight_bits, weight_bits), max(self.act_bits, act_bits)


def as_stages(value: object) -> tuple[Stage, ...]:
    """Returns the stages of a recipe's list, or of a text such as ``0.2:fp32,0.3:w4a8``; none for None or ``none``.

    Raises:
        ValueError: Something else, an unknown key, no width, or shares that leave nothing to the last stage.
    """
    if isinstance(value, str):
        value = [] if value == "none" else [_parsed(part, value) for part in value.split(",")]
    if value is not None and not isinstance(value, (list, tuple)):
        raise InvalidTypeError(f"stages={value!r} is not a list. Write 0.2:fp32,0.3:w4a8, or a list in a recipe.")
    stages = tuple(one if isinstance(one, Stage) else _stage(one) for one in value or ())
    if (total := sum(stage.share for stage in stages)) >= 1:
        raise InvalidValueError(
            f"stages: their shares add up to {total:g}, which leaves no epoch to the last stage. Give less than 1."
        )
    return stages


def stage_at(stages: Sequence[Stage], epoch: int, epochs: int) -> int:
    """Returns the number of an epoch's stage; ``len(stages)`` is the last stage, which has at least one epoch.

    >>> stages = as_stages("0.2:fp32,0.3:w4a8")
    >>> [stage_at(stages, epoch, 10) for epoch in range(10)]
    [0, 0, 1, 1, 1, 2, 2, 2, 2, 2]
    >>> stage_at(stages, 0, 1)
    2
    """
    reached = 0.0
    for number, stage in enumerate(stages):
        reached += stage.share
        if epoch < min(int(reached * epochs + 0.5), epochs - 1):
            return number
    return len(stages)


def stages_to_list(stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """Returns plain values that `as_stages` reads back."""
    return [{**asdict(stage), "include": list(stage.include)} for stage in stages]


def _parsed(part: str, text: str) -> dict[str, Any]:
    if (match := _TEXT.fullmatch(part.strip())) is None or match["share"].count(".") > 1:
        raise InvalidValueError(f"stages={text!r}: '{part}' is not a stage. Write SHARE:WIDTHS, such as 0.3:w4a8.")
    bits = FLOAT_BITS if match["fp32"] else int(match["bits"] or 0)
    return {
        "share": float(match["share"]), "weight_bits": int(match["w"] or bits), "act_bits": int(match["a"] or bits),
    }  # fmt: skip


def _stage(value: object) -> Stage:
    if not isinstance(value, Mapping):
        raise InvalidTypeError(
            f"stages: {value!r} is not a mapping such as {{share: 0.3, weight_bits: 4, act_bits: 8}}."
        )
    for key in value:
        if key not in _KEYS:
            known = ", ".join(_KEYS)
            raise InvalidValueError(f"stages: '{key}' is not a key.{did_you_mean(str(key), _KEYS)} Known: {known}.")
    share, bits = value.get("share"), value.get("bits", FLOAT_BITS)
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < 1:
        raise InvalidValueError(f"stages: share={share!r} is not a share of the epochs. Give a number between 0 and 1.")
    widths = {name: value.get(name, bits) for name in ("weight_bits", "act_bits")}
    for name, width in widths.items():
        if type(width) is not int or width not in (*range(1, 9), FLOAT_BITS):
            raise InvalidValueError(f"stages: {name}={width!r} is not a width. Use 1 to 8, or 32 for full precision.")
    include = value.get("include", ())
    if not isinstance(include, (list, tuple)) or not all(isinstance(one, str) for one in include):
        raise InvalidTypeError(f"stages: include={include!r} is not a list of layer patterns.")
    return Stage(share=float(share), include=tuple(include), **widths)
