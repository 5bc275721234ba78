"""YAML as configuration: plain values only, duplicate keys refused, scalars as in the YAML 1.2 core schema.

PyYAML follows YAML 1.1, where ``1e-4`` is a string, ``on`` a boolean, ``12:30`` the number 750 and ``2026-01-31`` a
date. Here ``1e-4`` is a number and the others stay the strings they look like.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from qreg_yolo.errors import UserError

_SCALARS = (
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("tag:yaml.org,2002:int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
)
"""(tag, pattern of the whole scalar, the characters it may start with)"""


class ConfigError(UserError, ValueError):
    """A configuration that cannot be used; the text states the fact, the value and the remedy."""


class _Loader(yaml.SafeLoader):
    """Safe loader with the scalars above; a key given twice is an error."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own protocol

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Returns the mapping; raises where a key is given twice."""
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key is not a plain word", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key.value}' is given twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


class _TextLoader(_Loader):
    """The same, but every scalar stays text."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


class _Dumper(yaml.SafeDumper):
    """Safe dumper that quotes the strings that YAML 1.1 (Ultralytics) or the loader above reads as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        """Returns True: equal values are written out, not linked."""
        return True


for _class in (_Loader, _Dumper):
    for _tag, _pattern, _first in _SCALARS:
        _class.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), _first)


def loads(text: str, source: str, *, as_text: bool = False) -> Any:
    """Returns the plain value (dict, list, str, int, float, bool or None) of a YAML text.

    Args:
        text: The YAML text.
        source: Its file or option, for the error text.
        as_text: Whether numbers, true, false and null stay text.

    Raises:
        ConfigError: Not YAML, a key given twice, or a tag that asks for a Python object.

    >>> loads("{lr0: 1e-4, name: 2026-01-31, amp: off}", "example")
    {'lr0': 0.0001, 'name': '2026-01-31', 'amp': 'off'}
    """
    try:
        return yaml.load(text, Loader=_TextLoader if as_text else _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{source}{where}: {error.problem or error.context}. Correct the YAML there.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not YAML: {error}. Correct it or give another file.") from error


def load(path: Path, *, as_text: bool = False) -> Any:
    """Returns the plain value of a YAML file; `as_text` as in `loads`.

    Raises:
        ConfigError: It cannot be read, or `loads` refuses it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(f"{path} cannot be read: {reason}. Give the path of a YAML file.") from error
    return loads(text, str(path), as_text=as_text)


def dumps(data: Any) -> str:
    """Returns plain values as ASCII YAML text that `loads` reads back equal, keys in their own order."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=120)
