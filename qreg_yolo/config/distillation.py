"""Section ``distill`` of both configurations: the teacher, the losses, and their weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from qreg_yolo.config.checks import check_bools, check_number, check_texts
from qreg_yolo.errors import InvalidValueError, check_choice
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.quant.spec import QuantSpec

KEY = "distill"
"""Name of the section."""
WEIGHTS, NONE = "weights", "none"
"""Teachers that are no path."""
LOSSES: tuple[str, ...] = ("logits", "features", "both")


def named_teacher(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns section ``distill`` of merged sections with the teacher's checkpoint in place of `weights` and `none`.

    Raises:
        ConfigError: `weights`, and the run starts from none.
    """
    options = dict(sections[KEY])
    if options.get("teacher") not in (WEIGHTS, NONE):
        return options
    if options["teacher"] == NONE or QuantSpec.from_options(sections["quant"]).is_float:
        return {}
    if (weights := sections["run"].get("weights")) is None:
        raise ConfigError("teacher: weights is the checkpoint of --weights. Give one, or another teacher.")
    return {**options, "teacher": weights}


@dataclass(frozen=True, kw_only=True)
class DistillOptions:
    """Section ``distill``: losses that compare the network with a trained one; without a teacher it has no effect.

    Raises:
        ValueError: A value outside its range or choices, or a projector without a loss of features.
        TypeError: A value of the wrong type.
    """

    teacher: str | None = None
    """Checkpoint of the teacher, usually the fp32 baseline; `weights`: the one that the run starts from, if anything is
    quantized; None or `none`: no distillation."""
    sha256: str | None = None
    """Hash of the teacher's file, which a run writes and checks when it is resumed or repeated; None: not checked."""
    losses: str = "logits"
    """`logits` | `features` (of the neck; detectors only) | `both`."""
    logits: float = 1.0
    """Weight of the loss of logits, above 0."""
    features: float = 1.0
    """Weight of the loss of features, above 0."""
    projector: bool = False
    """Whether trained convolutions map the student's features to the teacher's; otherwise their widths must agree."""
    temperature: float = 4.0
    """Temperature of the softened class probabilities, above 0; classifiers only."""

    def __post_init__(self) -> None:
        check_texts(self, unset=("teacher", "sha256"))
        check_choice("losses", self.losses, LOSSES)
        for name in ("logits", "features", "temperature"):
            check_number(self, name, 0, above=True)
        check_bools(self, "projector")
        if self.projector and not self.has_features:
            raise InvalidValueError(
                "projector=True: the loss of logits has no features to project. Set losses to features or both, or "
                "projector to false."
            )

    @property
    def has_logits(self) -> bool:
        """Whether logits are compared."""
        return self.losses != "features"

    @property
    def has_features(self) -> bool:
        """Whether features of the neck are compared."""
        return self.losses != "logits"

    @property
    def path(self) -> Path | None:
        """The teacher's file; None without a teacher."""
        return None if self.teacher is None else Path(self.teacher)

    def section(self) -> dict[str, dict[str, Any]]:
        """Returns ``{"distill": {...}}`` for a configuration; empty if every option has its default."""
        return {} if self == DistillOptions() else {KEY: asdict(self)}

    def check_default(self, *names: str, reason: str) -> None:
        """Raises `InvalidValueError` unless these options have their defaults; ``reason`` says who reads them."""
        for default in fields(self):
            if default.name in names and (value := getattr(self, default.name)) != default.default:
                raise InvalidValueError(f"{default.name}={value} {reason} Remove it.")
