"""Ultralytics' arguments that a command or a recipe may set, with their types.

The names and defaults are read from Ultralytics' own ``default.yaml``, without importing Ultralytics; what becomes of
each is in `ultralytics_arguments`. Ranges stay Ultralytics' business.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

from qreg_yolo.config.key_values import Kind, describe
from qreg_yolo.config.ultralytics_arguments import ARGUMENTS, Argument, Command
from qreg_yolo.errors import did_you_mean
from qreg_yolo.io import strict_yaml
from qreg_yolo.io.strict_yaml import ConfigError

_DEPRECATED = {"int8": "use --bits 8", "half": "use --bits for quantization, or amp= for mixed precision"}
"""Arguments that Ultralytics still accepts but no longer lists -> the replacement."""
RESERVED: Mapping[str, str] = MappingProxyType(
    {
        **{
            name: argument.train.note
            for name, argument in ARGUMENTS.items()
            if argument.train.status == "refused" and not argument.train.default_is_taken
        },
        **_DEPRECATED,
        "model": "set it in section 'run', or with --model",
        "data": "set it in section 'run', or with --data",
        "seed": "set it in section 'run', or with --seed",
    }
)
"""Ultralytics' keys that a recipe's section ``train`` cannot hold -> the replacement."""

_ALSO: Mapping[str, tuple[type, ...]] = MappingProxyType(
    {"device": (int, list), "name": (int, float), "project": (int, float)}
)
"""Texts that may be numbers or lists in a file and in Python, as in Ultralytics."""
_TYPES: Mapping[Kind, tuple[type, ...]] = MappingProxyType(
    {
        Kind.TEXT: (str,),
        Kind.WHOLE: (int,),
        Kind.NUMBER: (float, int),
        Kind.BOOL: (bool,),
        Kind.LIST: (list,),
        Kind.NONE: (type(None),),
    }
)


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
    """Raises unless a recipe's section ``train`` may hold these keys and values; see `check_values`."""
    check_values(values, source, "train")


def check_values(values: Mapping[str, Any], source: str, command: Command) -> None:
    """Raises unless every key is an Ultralytics argument that a command may set, with a value of its type.

    Args:
        values: Ultralytics' keys and their values.
        source: Where they come from, for the error text.
        command: The command that they are given to.

    Raises:
        ConfigError: An unknown key (the nearest is named), a key that is refused, or a value of the wrong type.
    """
    for key, value in values.items():
        if (why := _refusal(key, value, command)) is not None:
            raise ConfigError(f"{source}: '{key}' cannot be set here: {why}.")
        if key not in host_defaults():
            raise ConfigError(
                f"{source}: '{key}' is not an Ultralytics argument.{did_you_mean(key, legal_keys())} "
                "All of them: https://docs.ultralytics.com/usage/cfg."
            )
        _check_value(key, value, source)


def _refusal(key: str, value: object, command: Command) -> str | None:
    """Returns why a command refuses an argument; None: it does not."""
    if key in _DEPRECATED or (command == "train" and key in RESERVED):
        return RESERVED[key]
    use = ARGUMENTS[key].use(command) if key in ARGUMENTS else None
    if use is None or use.status != "refused" or (use.default_is_taken and value == host_defaults()[key]):
        return None
    return use.note


def _check_value(key: str, value: Any, source: str) -> None:
    argument = ARGUMENTS.get(key)
    default = host_defaults()[key]
    if argument is None or (value is None and default is None):  # a newer Ultralytics checks its own
        return
    shown = f"{source}: {key}={value!r}"
    if isinstance(value, dict):
        raise ConfigError(f"{shown} is a mapping. Give a single value or a list.")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{shown} is not finite. Give a finite number.")
    if not (_is_one_of(value, argument.kind) or type(value) in _ALSO.get(key, ())):
        raise ConfigError(f"{shown} is not {describe(argument.kind)}. Ultralytics' default is {default!r}.")
    if isinstance(value, list) and Kind.LIST in argument.kind:
        for entry in value:
            if not _is_one_of(entry, argument.entries):
                raise ConfigError(f"{shown}: {entry!r} is not {describe(argument.entries)}.")
    _check_choice(argument, value, shown)


def _check_choice(argument: Argument, value: object, shown: str) -> None:
    if not isinstance(value, str) or not argument.choices:
        return
    if value.lower() not in (choice.lower() for choice in argument.choices):
        others = ["true", "false"] if Kind.BOOL in argument.kind else []
        raise ConfigError(
            f"{shown} is not one of: {', '.join([*others, *argument.choices])}.{did_you_mean(value, argument.choices)}"
        )


def _is_one_of(value: object, kind: Kind) -> bool:
    return any(type(value) in types for one, types in _TYPES.items() if one in kind)
