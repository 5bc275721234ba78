"""What one classification run is: three validated sections, read from YAML and the command line.

Order of precedence: the defaults below, then a recipe (``hyp/*.yaml``), then the command line. Milestones belong to the
number of epochs they were given with: where only the epochs change afterwards, they are scaled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from qreg_yolo.config.classification_options import (
    ClassifyConfig,
    ClassifyOptions,
    TrainOptions,
    as_milestones,
)
from qreg_yolo.config.detection import COMMAND_LINE, merge_quant, named
from qreg_yolo.config.sections import check_sections, read_sections
from qreg_yolo.errors import did_you_mean
from qreg_yolo.io import strict_yaml
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.quant.spec import QuantSpec

_SECTIONS: dict[str, list[str]] = {
    "run": [f.name for f in fields(ClassifyOptions)],
    "quant": ["bits", "weight_only", *(f.name for f in fields(QuantSpec))],
    "train": [f.name for f in fields(TrainOptions)],
}
"""Section -> the keys it takes."""


def load(path: Path) -> ClassifyConfig:
    """Returns the configuration of a YAML file; what the file leaves out has its default.

    Raises:
        ConfigError: Not readable, not YAML, an unknown section or key (the nearest is named), or a wrong value.
    """
    return resolve(path, {}, {})[0]


def dump(config: ClassifyConfig) -> str:
    """Returns the configuration as YAML text that `load` reads back equal."""
    return strict_yaml.dumps(config.to_dict())


def from_mapping(data: Mapping[str, Any], source: str) -> ClassifyConfig:
    """Returns the configuration of a dictionary of sections.

    Raises:
        ConfigError: An unknown section or key (the nearest is named), or a wrong value.
    """
    sections = check_sections(data, source, _SECTIONS)
    with named(f"{source}, section 'run'"):
        run = ClassifyOptions(**sections["run"])
    with named(f"{source}, section 'quant'"):
        quant = QuantSpec.from_options(sections["quant"])
    with named(f"{source}, section 'train'"):
        train = TrainOptions(**sections["train"])
    return ClassifyConfig(run=run, quant=quant, train=train)


def resolve(
    recipe: Path | None, options: Mapping[str, Any], overrides: Mapping[str, Any]
) -> tuple[ClassifyConfig, list[str]]:
    """Returns the configuration of one run, and what to tell the user about scaled milestones.

    Args:
        recipe: YAML file with any of the three sections; None: the defaults.
        options: Options by name (``bits``, ``epochs``, ``seed``, ...), flat; None counts as not given.
        overrides: The ``key=value`` arguments; keys of the sections ``run`` and ``train``.

    Raises:
        ConfigError: A recipe that is wrong by itself, an unknown option or key (the nearest is named), a wrong value,
            or an option and a ``key=value`` that disagree.
    """
    given = together({k: v for k, v in options.items() if v is not None}, overrides)
    stored = {} if recipe is None else read_sections(recipe, _SECTIONS)
    notices: list[str] = []
    sections = check_sections(stored, str(recipe), _SECTIONS)
    default = TrainOptions()
    _scale(sections["train"], {"epochs": default.epochs, "milestones": default.milestones}, notices)
    if recipe is not None:
        from_mapping(sections, str(recipe))  # a recipe has to stand by itself: its faults are reported as its own
    own = {section: {k: v for k, v in given.items() if k in keys} for section, keys in _SECTIONS.items()}
    _scale(own["train"], sections["train"], notices)
    merged = {
        "run": {**sections["run"], **own["run"]},
        "quant": merge_quant(sections["quant"], own["quant"]),
        "train": {**sections["train"], **own["train"]},
    }
    return from_mapping(merged, COMMAND_LINE if recipe is None else f"{COMMAND_LINE} with {recipe}"), notices


def scaled_milestones(milestones: Sequence[int], old: int, new: int) -> tuple[list[int], list[int]]:
    """Returns the milestones of ``old`` epochs scaled to ``new``, and those that have no place there any more.

    One that falls on 0 or on the end, or on the one before it, is dropped.

    >>> scaled_milestones([50, 90, 130, 180], 200, 8)
    ([2, 4, 5, 7], [])
    >>> scaled_milestones([50, 90, 130, 180], 200, 3)
    ([1, 2], [90, 180])
    """
    kept: list[int] = []
    dropped = []
    for milestone in milestones:
        place = math.floor(milestone * new / old + 0.5)
        if 0 < place < new and place not in kept:
            kept.append(place)
        else:
            dropped.append(milestone)
    return kept, dropped


def _scale(train: dict[str, Any], before: Mapping[str, Any], notices: list[str]) -> None:
    """Gives a section that sets other epochs and no milestones those from ``before``, scaled."""
    new, old = train.get("epochs"), before.get("epochs", TrainOptions.epochs)
    if "milestones" in train or not isinstance(new, int) or new < 1 or new == old:
        return  # a wrong number of epochs is reported where the section is checked
    present = as_milestones(before.get("milestones", TrainOptions.milestones))
    train["milestones"], dropped = scaled_milestones(present, old, new)
    notice = f"Milestones {list(present)} of {old} epochs become {train['milestones']} of {new}"
    notices.append(notice + (f"; dropped: {dropped}." if dropped else "."))


def together(options: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Returns options and ``key=value`` arguments as one dictionary; errors as `resolve`."""
    known = [key for keys in _SECTIONS.values() for key in keys]
    for key, value in overrides.items():
        if key in _SECTIONS["quant"]:
            raise ConfigError(f"{COMMAND_LINE}: '{key}' is an option, not a key=value. Use --{key.replace('_', '-')}.")
        if key not in known:
            raise ConfigError(
                f"{COMMAND_LINE}: there is no '{key}'.{did_you_mean(key, known)} Known: {', '.join(known)}."
            )
        if key == "milestones":
            value = list(as_milestones(value))
        if options.get(key, value) != value:
            raise ConfigError(f"--{key.replace('_', '-')} {options[key]} and {key}={value} disagree. Give one of them.")
        options[key] = value
    for key in options:
        if key not in known:
            raise ConfigError(f"'{key}' is not an option.{did_you_mean(key, known)} Known: {', '.join(known)}.")
    return options
