"""What can be refused of a request before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from qreg_yolo.corrupt import constants, load_overlays
from qreg_yolo.io.strict_yaml import ConfigError


def check_counts(numbers: Mapping[str, int | None], minimum: int) -> None:
    """Raises where one of the numbers is below a minimum; None is none.

    Raises:
        ConfigError: It is named.
    """
    for name, value in numbers.items():
        if value is not None and value < minimum:
            raise ConfigError(f"{name}={value}: give {minimum} or more.")


def check_corruptions(
    corruptions: Sequence[str], severities: Iterable[int], preset: str, frost_dir: Path | None
) -> None:
    """Raises where a corruption, a severity, a preset or the frost does not exist.

    Raises:
        ConfigError: So it is; the nearest name is given.
        FileNotFoundError: No such folder of frost.
    """
    try:
        for severity in severities:
            for name in corruptions:
                constants(name, severity, preset)
        if "frost" in corruptions:
            load_overlays(frost_dir)
    except ValueError as error:
        raise ConfigError(str(error)) from error
