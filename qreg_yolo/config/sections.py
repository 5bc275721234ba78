"""The sections of a recipe: which there are, which keys each takes, and where a misplaced key belongs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qreg_yolo.config.ultralytics_keys import RESERVED, host_defaults, legal_keys
from qreg_yolo.errors import did_you_mean
from qreg_yolo.io import strict_yaml
from qreg_yolo.io.strict_yaml import ConfigError

Sections = Mapping[str, Sequence[str]]
"""Section -> the keys it takes; none: Ultralytics' own."""


def read_sections(path: Path, sections: Sections) -> dict[str, Any]:
    """Returns the mapping in a YAML file, its sections not checked yet.

    Raises:
        ConfigError: It holds something else.
    """
    data = strict_yaml.load(path)
    if data is not None and not isinstance(data, dict):
        raise ConfigError(f"{path} holds {data!r:.80}, not sections. Known sections: {', '.join(sections)}.")
    return data or {}


def check_sections(data: Mapping[str, Any], source: str, sections: Sections) -> dict[str, dict[str, Any]]:
    """Returns every section as a dictionary, empty where it is absent.

    Args:
        data: What was read.
        source: Where it comes from, for the error text.
        sections: Section -> the keys it takes; none: Ultralytics' own.

    Raises:
        ConfigError: An unknown section or key; where it belongs, or the nearest, is named.
    """
    for name, values in data.items():
        if name not in sections:
            hint = _home(name, sections) or did_you_mean(name, sections)
            raise ConfigError(f"{source}: '{name}' is not a section.{hint} Known: {', '.join(sections)}.")
        if values is not None and not isinstance(values, Mapping):
            raise ConfigError(f"{source}: section '{name}' is {values!r:.80}, not a mapping. Write 'key: value' lines.")
        for key in values or {}:
            _check_key(name, key, source, sections)
    return {name: dict(data.get(name) or {}) for name in sections}


def _check_key(section: str, key: str, source: str, sections: Sections) -> None:
    known = sections[section]
    if known and key not in known:
        hint = _home(key, sections) or did_you_mean(key, known)
        raise ConfigError(f"{source}: section '{section}' has no '{key}'.{hint} Known: {', '.join(known)}.")
    if not known and key not in host_defaults() and key not in RESERVED and (hint := _home(key, sections)):
        raise ConfigError(f"{source}: section '{section}' has no '{key}'.{hint}")


def _home(key: str, sections: Sections) -> str:
    """Returns `` It belongs in section 'x'.`` for a key that some section takes, or an empty string."""
    for section, known in sections.items():
        if key in (known or legal_keys()):
            return f" It belongs in section '{section}'."
    return ""
