"""Class names of datasets and models, matched by name or with a class map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qreg_yolo.errors import WeightsError, did_you_mean
from qreg_yolo.io import strict_yaml
from qreg_yolo.io.strict_yaml import ConfigError

MAPS: dict[str, dict[str, str]] = {
    "coco2voc": {
        "aeroplane": "airplane", "diningtable": "dining table", "motorbike": "motorcycle",
        "pottedplant": "potted plant", "sofa": "couch", "tvmonitor": "tv",
    },
}  # fmt: skip
"""Name -> class of the data -> class of the model; classes that are not listed have the same name in both."""
_SHOWN = 5
"""Most names of one side that an error lists."""


class ClassesError(ValueError):
    """Classes that differ; the text lists them, and the caller adds the data and the model."""


@dataclass(frozen=True)
class ClassMap:
    """The outputs of a model that are the classes of the data; the model's other classes count for nothing."""

    rows: tuple[int, ...]
    """Class of the model, for each class of the data."""
    names: tuple[str, ...]
    """The classes of the data."""
    label: str = "by-name"
    """Name of the map in records, or of its file; `by-name`: the same names in another order; `by-number`: data without
    names."""


def class_names(names: Mapping[Any, Any] | Sequence[Any]) -> list[str]:
    """Returns the names of classes 0, 1, ... from the list or mapping of a data description or a model."""
    listed = [names[key] for key in sorted(names, key=int)] if isinstance(names, Mapping) else names
    return [str(name) for name in listed]


def placeholder_names(n_classes: int) -> list[str]:
    """Returns the names that Ultralytics gives to the classes of data with ``nc`` and without names."""
    return [f"class_{number}" for number in range(n_classes)]


def rows_by_name(names: Sequence[str], model_names: Sequence[str]) -> tuple[int, ...] | None:
    """Returns the model's class of each class of the data; None if both list the same names in the same order.

    Args:
        names: The classes of the data.
        model_names: The classes of the model.

    Raises:
        ClassesError: The data or the model has a class that the other lacks, or names one twice in another order.

    >>> rows_by_name(["dog", "cat"], ["cat", "dog"])
    (1, 0)
    """
    if list(names) == list(model_names):
        return None
    lists = (("the data", names, model_names), ("the model", model_names, names))
    alone = [
        f"only {side} has {', '.join(map(repr, lacking[:_SHOWN]))}{', ...' if len(lacking) > _SHOWN else ''}"
        for side, mine, others in lists
        if (lacking := [name for name in dict.fromkeys(mine) if name not in others])
    ]
    if alone or len(set(names)) < len(names) or len(names) != len(model_names):
        raise ClassesError("; ".join(alone) or "a name is given twice")
    return tuple(list(model_names).index(name) for name in names)


def match_classes(names: Sequence[str], model_names: Sequence[str], model: object, data: object) -> ClassMap | None:
    """Returns the classes of a model that are those of the data, by name; None if the order agrees too.

    Data without names (`placeholder_names`) have the model's first classes, by number.

    Args:
        names: The classes of the data.
        model_names: The classes of the model.
        model: The model, for the error text.
        data: The data, for the error text.

    Raises:
        WeightsError: They are not the same names.
    """
    n_classes = len(names)
    if list(names) == placeholder_names(n_classes) and n_classes <= len(model_names):
        known = tuple(model_names[:n_classes])
        return None if n_classes == len(model_names) else ClassMap(tuple(range(n_classes)), known, "by-number")
    try:
        rows = rows_by_name(names, model_names)
    except ClassesError as error:
        raise WeightsError(
            f"'{model}' has {len(model_names)} classes, {data} {n_classes}: {error}. Give the data that the model was "
            "trained for, or say which classes are which with --class-map."
        ) from error
    return None if rows is None else ClassMap(rows, tuple(names))


def class_map(given: str, names: Sequence[str], model_names: Sequence[str]) -> ClassMap:
    """Returns the map that ``given`` names.

    Args:
        given: A name of `MAPS`, or a YAML file: a mapping of data classes to model classes.
        names: The classes of the data.
        model_names: The classes of the model.

    Raises:
        ConfigError: No such map, or a class that the data or the model does not have.
    """
    renamed = _read_map(given)
    for name in renamed:
        if name not in names:
            raise ConfigError(f"--class-map {given}: the data has no class '{name}'.{did_you_mean(name, names)}")
    rows = []
    for name in names:
        wanted = renamed.get(name, name)
        if wanted not in model_names:
            raise ConfigError(
                f"--class-map {given}: '{name}' of the data is '{wanted}' of the model, which has no such class."
                f"{did_you_mean(wanted, model_names)} Give a YAML file with a line 'data class: model class'."
            )
        rows.append(model_names.index(wanted))
    return ClassMap(tuple(rows), tuple(names), Path(given).stem)


def _read_map(given: str) -> Mapping[str, str]:
    if given in MAPS:
        return MAPS[given]
    if Path(given).suffix not in (".yaml", ".yml"):
        raise ConfigError(
            f"--class-map {given} is not a map.{did_you_mean(given, MAPS)} Give a YAML file, or one of: "
            f"{', '.join(MAPS)}."
        )
    found = strict_yaml.load(Path(given), as_text=True)  # a class may be called 1, no or true
    if not isinstance(found, dict) or not all(isinstance(text, str) for pair in found.items() for text in pair):
        raise ConfigError(f"--class-map {given} is not a mapping of names. Write lines 'data class: model class'.")
    return found
