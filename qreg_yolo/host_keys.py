"""Which of Ultralytics' training arguments may be set, and of what type.

Read from Ultralytics' own ``default.yaml``, without importing Ultralytics: the names and types are always those of the
installed version. Ranges stay Ultralytics' business.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

from qreg_yolo import strict_yaml
from qreg_yolo.strict_yaml import ConfigError
from qreg_yolo.suggest import did_you_mean

RESERVED: Mapping[str, str] = MappingProxyType(
    {
        "model": "set it in section 'run', or with --model",
        "data": "set it in section 'run', or with --data",
        "seed": "set it in section 'run', or with --seed",
        "resume": "use --resume PATH/last.pt",
        "pretrained": "use --weights PATH",
        "quantize": "use --bits (Ultralytics' own quantization is another method)",
        "int8": "use --bits 8",
        "half": "use --bits for quantization, or amp= for mixed precision",
        "mode": "the subcommand sets it (train, val, predict, inspect)",
        "task": "leave it out: the task is always detection",
        "cfg": "use --hyp PATH",
    }
)
"""Ultralytics' keys that qreg-yolo decides itself -> what to use."""

_ALSO: Mapping[str, tuple[type, ...]] = MappingProxyType(
    {
        "amp": (str,),
        "auto_augment": (type(None),),
        "batch": (float,),
        "cache": (str,),
        "compile": (str,),
        "fraction": (list,),
        "imgsz": (list,),
        "scale": (list,),
    }
)
"""Keys that take more types than their default's."""

_TYPE_NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "a text", list: "a list"}


@lru_cache(maxsize=1)
def host_defaults() -> Mapping[str, Any]:
    """Returns every argument of the installed Ultralytics with its default (read only).

    Raises:
        ConfigError: Ultralytics is not installed.
    """
    spec = find_spec("ultralytics")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("Ultralytics is not installed. Install it: pip install 'ultralytics>=8.4.190,<8.5'.")
    path = Path(spec.submodule_search_locations[0]) / "cfg" / "default.yaml"
    return MappingProxyType(strict_yaml.load(path))


def legal_keys() -> list[str]:
    """Returns the names a recipe's section ``train`` may hold, sorted."""
    return sorted(host_defaults().keys() - RESERVED.keys())


def check_train(values: Mapping[str, Any], source: str) -> None:
    """Raises unless every key is one of Ultralytics' that may be set here, with a value of its type.

    Args:
        values: Ultralytics' keys and their values.
        source: Where they come from, for the error text.

    Raises:
        ConfigError: An unknown key (the nearest is named), a key that qreg-yolo owns, or a value of the wrong type.
    """
    for key, value in values.items():
        if key in RESERVED:
            raise ConfigError(f"{source}: '{key}' cannot be set here: {RESERVED[key]}.")
        if key not in host_defaults():
            raise ConfigError(
                f"{source}: '{key}' is not an Ultralytics argument.{did_you_mean(key, legal_keys())} "
                "All of them: https://docs.ultralytics.com/usage/cfg."
            )
        _check_type(key, value, source)


def _check_type(key: str, value: Any, source: str) -> None:
    default = host_defaults()[key]
    if isinstance(value, dict):
        raise ConfigError(f"{source}: {key}={value!r} is a mapping. Give a single value or a list.")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{source}: {key}={value!r} is not finite. Give a finite number.")
    if default is None:
        return
    types = (type(default), *_ALSO.get(key, ()))
    if type(value) in types or (float in types and type(value) is int):
        return
    wanted = " or ".join(_TYPE_NAMES.get(t, "null") for t in types)
    raise ConfigError(f"{source}: {key}={value!r} is not {wanted}. Ultralytics' default is {default!r}.")
