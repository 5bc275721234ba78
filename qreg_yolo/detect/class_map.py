"""The classes of a model and those of a data set, matched by name: in another order, or under other names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qreg_yolo.datasets.classes import ClassesError, rows_by_name
from qreg_yolo.errors import did_you_mean
from qreg_yolo.io import strict_yaml
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.training.tensor_file import WeightsError

MAPS: dict[str, dict[str, str]] = {
    "coco2voc": {
        "aeroplane": "airplane", "diningtable": "dining table", "motorbike": "motorcycle",
        "pottedplant": "potted plant", "sofa": "couch", "tvmonitor": "tv",
    },
}  # fmt: skip
"""Name -> class of the data -> class of the model; classes that are not listed have the same name in both."""


@dataclass(frozen=True)
class ClassMap:
    """Which outputs of a model are the classes of the data; the model's other classes count for nothing."""

    rows: tuple[int, ...]
    """Class of the model, for each class of the data."""
    names: tuple[str, ...]
    """The classes of the data."""
    label: str = "by-name"
    """What the map is called in a record: its name, or its file's; `by-name`: the same names in another order."""


def match_classes(names: Sequence[str], model_names: Sequence[str], model: object, data: object) -> ClassMap | None:
    """Returns which of a model's classes are those of the data, by name; None where the order agrees too.

    Args:
        names: The classes of the data.
        model_names: The classes of the model.
        model: The model, for the error text.
        data: The data, for the error text.

    Raises:
        WeightsError: They are not the same names.
    """
    try:
        rows = rows_by_name(names, model_names)
    except ClassesError as error:
        raise WeightsError(
            f"'{model}' has {len(model_names)} classes, {data} {len(names)}: {error}. Give the data that the model was "
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
    renamed = _read(given)
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


def _read(given: str) -> Mapping[str, str]:
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
