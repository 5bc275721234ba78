"""The conditions that robustness is measured under: clean images and the 19 common corruptions, in canonical order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from qreg_yolo.corrupt.spec import BENCHMARK_NAMES, NAMES, SEVERITIES
from qreg_yolo.errors import AnalysisError, MissingFileError, did_you_mean
from qreg_yolo.io.strict_yaml import ConfigError, load

CLEAN = "clean"
"""Name of the images as they are; its severity is 0."""
CONDITIONS: tuple[str, ...] = (CLEAN, *NAMES)
"""The 20 names of a heatmap."""

Condition = tuple[str, int]
"""(name, severity); clean images are ("clean", 0)."""

Layout = tuple[tuple[str, ...], ...]
"""Rows of names of conditions, all of the same length."""
DEFAULT_LAYOUT: Layout = tuple(CONDITIONS[start : start + 5] for start in range(0, 20, 5))
"""4 rows x 5 columns, clean first. QReg only draws where each is (Fig. 3a), so it can be overridden."""
DEFAULT_METRICS: Mapping[str, str] = {"detect": "map50_95", "classify": "accuracy_top1"}
"""Track of the records -> the metric that is compared unless another is asked for."""


def conditions_of(corruptions: Iterable[str], severities: Sequence[int]) -> list[Condition]:
    """Returns clean, then every corruption at every severity.

    >>> conditions_of(["fog"], [1, 2])
    [('clean', 0), ('fog', 1), ('fog', 2)]
    """
    return [(CLEAN, 0), *((name, severity) for name in corruptions for severity in severities)]


def check_condition(name: str, where: str) -> None:
    """Raises unless a name is one of the 20.

    Args:
        name: The name.
        where: Who gave it, for the error text.

    Raises:
        AnalysisError: It is not; the text has the nearest name.
    """
    if name not in CONDITIONS:
        raise AnalysisError(
            f"{where}: '{name}' is not one of the 19 corruptions nor '{CLEAN}'.{did_you_mean(name, CONDITIONS)} "
            f"Known: {', '.join(CONDITIONS)}."
        )


def check_severities(severities: Sequence[int], where: str) -> None:
    """Raises where a severity is outside 1..5, or the list is empty.

    Raises:
        AnalysisError: It does.
    """
    wrong = [severity for severity in severities if severity not in SEVERITIES]
    if wrong or not severities:
        given = wrong[0] if wrong else "none"
        raise AnalysisError(f"{where}: severity={given} does not exist. Severities are 1, 2, 3, 4 and 5.")


def read_layout(path: Path) -> Layout:
    """Returns the layout in a YAML file: a list of rows, each a list of as many condition names.

    Raises:
        FileNotFoundError: No such file.
        ConfigError: Not such a list, an unknown name, or one that is named twice.
    """
    if not path.exists():
        raise MissingFileError(f"{path} does not exist. Give a YAML file with a list of rows of condition names.")
    rows = load(path)
    if not (isinstance(rows, list) and rows and all(isinstance(row, list) and row for row in rows)):
        raise ConfigError(f"{path} is not a list of rows. Write one list of condition names per row of the heatmap.")
    layout = tuple(tuple(str(name) for name in row) for row in rows)
    if len({len(row) for row in layout}) > 1:
        lengths = ", ".join(str(len(row)) for row in layout)
        raise ConfigError(f"{path}: the rows have {lengths} conditions. Give each row as many.")
    names = [name for row in layout for name in row]
    for name in names:
        try:
            check_condition(name, str(path))
        except AnalysisError as error:
            raise ConfigError(str(error)) from error
        if names.count(name) > 1:
            raise ConfigError(f"{path}: '{name}' is named twice. Name each condition once.")
    return layout


def parse_corruptions(text: str, *, none: bool = False) -> tuple[str, ...]:
    """Returns the corruptions in ``19`` (all), ``15`` (the benchmark's) or ``fog,snow``, in canonical order.

    Args:
        text: The text.
        none: Whether it may be ``none``: no corruption.

    Raises:
        ConfigError: An unknown corruption; the nearest name is suggested.

    >>> parse_corruptions("snow, gaussian_noise")
    ('gaussian_noise', 'snow')
    """
    if none and text.strip() == "none":
        return ()
    named = {"19": NAMES, "15": BENCHMARK_NAMES}.get(text.strip())
    wanted = [word.strip() for word in text.split(",")] if named is None else named
    for word in wanted:
        if word not in NAMES:
            raise ConfigError(
                f"corruptions={text!r}: '{word}' is not one of the 19.{did_you_mean(word, NAMES)} Write 19, 15"
                f"{', none' if none else ''}, or names separated by commas: {', '.join(NAMES)}."
            )
    return tuple(name for name in NAMES if name in wanted)


def parse_severities(text: str | None) -> tuple[int, ...]:
    """Returns the severities in ``3``, ``1-5`` or ``1,3``; none for None.

    Raises:
        ConfigError: Something else, or a severity outside 1..5.

    >>> parse_severities("1-3,5")
    (1, 2, 3, 5)
    """
    found: set[int] = set()
    for part in text.split(",") if text is not None else []:
        first, dash, last = part.partition("-")
        try:
            low, high = int(first), int(last if dash else first)
        except ValueError:
            low, high = 0, 0
        if not 1 <= low <= high <= 5:
            raise ConfigError(f"severities={text!r} is not a list of severities 1 to 5. Write 3, 1-5 or 1,3.")
        found.update(range(low, high + 1))
    return tuple(sorted(found))
