"""Section ``head`` of a run: the detection head, and the gains of the anchor head."""

from __future__ import annotations

import math
from dataclasses import dataclass

from qreg_yolo.errors import InvalidTypeError, InvalidValueError, check_choice

HEADS: tuple[str, ...] = ("anchor_free", "anchor")


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Section ``head``: the detection head. All but ``kind`` is for the anchor head; the defaults are YOLOv5's.

    Raises:
        ValueError: An unknown head, or a value outside its range.
        TypeError: A value of the wrong type.
    """

    kind: str = "anchor_free"
    """`anchor_free`: Ultralytics' own (box, class, distribution focal loss) | `anchor`: YOLOv5's, with objectness."""
    box: float = 0.05
    """Gain of the box loss, 0 or more."""
    cls: float = 0.5
    """Gain of the class loss at 80 classes, 0 or more."""
    obj: float = 1.0
    """Gain of the objectness loss at 640 px, 0 or more."""
    cls_pw: float = 1.0
    """Weight of the positive targets of the class loss, above 0."""
    obj_pw: float = 1.0
    """Weight of the positive targets of the objectness loss, above 0."""
    anchor_t: float = 4.0
    """An anchor matches an object if their widths and heights differ by a factor below this; above 1."""
    autoanchor: bool = False
    """Whether to fit the anchors to the training set before training."""

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, HEADS)
        for name, least in (("box", 0), ("cls", 0), ("obj", 0), ("cls_pw", 0), ("obj_pw", 0), ("anchor_t", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise InvalidTypeError(f"{name}={value!r} is not a number.")
            if not (value > least or (value == 0 and name in ("box", "cls", "obj"))) or not math.isfinite(value):
                raise InvalidValueError(f"{name}={value!r} is out of range. Give a finite number above {least}.")
        if not isinstance(self.autoanchor, bool):
            raise InvalidTypeError(f"autoanchor={self.autoanchor!r} is not true or false.")
        if self.autoanchor and not self.has_anchors:
            raise InvalidValueError(
                "autoanchor needs kind 'anchor': the anchor_free head has no anchors. Add --head anchor."
            )

    @property
    def has_anchors(self) -> bool:
        """Whether it is the anchor head."""
        return self.kind == "anchor"
