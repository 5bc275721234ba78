"""The request of a measurement, and its checks before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from qreg_yolo.corrupt import NAMES, SEVERITIES, constants, load_overlays
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.metrics.conditions import Condition, conditions_of


@dataclass(frozen=True, kw_only=True)
class RobustnessRequest:
    """The models to measure and the conditions to measure them under; each track adds its images."""

    weights: Sequence[Path]
    variants: Mapping[Path, str] = field(default_factory=dict)
    """Checkpoint -> name of its variant in the records; those without one are not in it."""
    corruptions: Sequence[str] = NAMES
    severities: Sequence[int] = SEVERITIES
    limit: int | None = None
    """Size of a fixed random subset of the images; None: all."""
    batch: int | None = None
    """Images per batch, the same for all models; None: as ``val`` takes them."""
    seed: int | None = None
    """Seed of the corruptions; None: 0."""
    preset: str | None = None
    """Constants of the corruptions; None: `default_preset`."""
    frost_dir: Path | None = None
    """Folder of frost overlays; None: as `load_overlays`."""
    workers: int | None = None
    """Processes that corrupt; None: 0 on the CPU, where the models take the cores anyway, else several."""
    device: str | None = None
    threads: int | None = None
    default_preset: ClassVar[str] = "imagenet224"

    @property
    def conditions(self) -> list[Condition]:
        """Clean, then every corruption at every severity."""
        return conditions_of(self.corruptions, self.severities)

    @property
    def corruption_options(self) -> dict[str, Any]:
        """The options of `corrupt` that are the same for all images."""
        return {"seed": self.seed or 0, "preset": self.preset or self.default_preset, "frost": self.frost_dir}

    def check(self) -> None:
        """Raises where a number is too small, or a corruption, severity, preset or folder of frost does not exist.

        Raises:
            ConfigError: A value that cannot be used; the nearest name is given.
            FileNotFoundError: No such folder of frost.
        """
        check_counts({"batch": self.batch, "limit": self.limit}, 1)
        check_counts({"workers": self.workers, "seed": self.seed}, 0)
        try:
            for name, severity in self.conditions[1:]:
                constants(name, severity, self.preset or self.default_preset)
            if "frost" in self.corruptions:
                load_overlays(self.frost_dir)
        except ValueError as error:
            raise ConfigError(str(error)) from error


def check_counts(numbers: Mapping[str, int | None], minimum: int) -> None:
    """Raises `ConfigError` where one of the numbers is below a minimum; None is accepted."""
    for name, value in numbers.items():
        if value is not None and value < minimum:
            raise ConfigError(f"{name}={value}: give {minimum} or more.")
