"""The way to a configuration: defaults < recipe < options < ``key=value``, in sections; the same for both tracks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from qreg_yolo.config.ultralytics_keys import RESERVED, host_defaults, legal_keys
from qreg_yolo.errors import did_you_mean
from qreg_yolo.io import strict_yaml
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.quant.spec import QuantSpec, spelled_out

COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Section:
    """One section of a configuration."""

    build: Callable[..., Any]
    """Makes the section's values from its keys."""
    keys: Sequence[str]
    """Its keys; none: Ultralytics' own training arguments."""

    @classmethod
    def of(cls, options: type) -> Section:
        """Returns the section whose keys are the fields of a dataclass."""
        return cls(options, [f.name for f in fields(options)])


Layout = Mapping[str, Section]
"""Section name -> section."""
QUANT = Section(
    lambda **options: QuantSpec.from_options(options),
    ["bits", "weight_only", "edge_bits", *(f.name for f in fields(QuantSpec))],
)
"""Section ``quant`` of both tracks."""


@contextmanager
def named(source: str) -> Iterator[None]:
    """Prefixes the text of a wrong value inside the block with ``source``."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{source}: {error}") from error


def read_sections(path: Path, layout: Layout) -> dict[str, dict[str, Any]]:
    """Returns the sections of a YAML file; errors as `check_sections`, or it cannot be read."""
    data = strict_yaml.load(path)
    if data is not None and not isinstance(data, dict):
        raise ConfigError(f"{path} holds {data!r:.80}, not sections. Known sections: {', '.join(layout)}.")
    return check_sections(data or {}, str(path), layout)


def check_sections(data: Mapping[str, Any], source: str, layout: Layout) -> dict[str, dict[str, Any]]:
    """Returns every section as a dictionary, empty where it is absent.

    Args:
        data: Section name -> its keys and values.
        source: Origin of the data, for the error text.
        layout: The known sections.

    Raises:
        ConfigError: An unknown section or key; its section, or the nearest name, is given.
    """
    for name, values in data.items():
        if name not in layout:
            hint = _home(name, layout) or did_you_mean(name, layout)
            raise ConfigError(f"{source}: '{name}' is not a section.{hint} Known: {', '.join(layout)}.")
        if values is not None and not isinstance(values, Mapping):
            raise ConfigError(f"{source}: section '{name}' is {values!r:.80}, not a mapping. Write 'key: value' lines.")
        for key in values or {}:
            _check_key(name, key, source, layout)
    return {name: dict(data.get(name) or {}) for name in layout}


def build(sections: Mapping[str, Mapping[str, Any]], source: str, layout: Layout) -> dict[str, Any]:
    """Returns the validated values of every section.

    Raises:
        ConfigError: A wrong value; its section is given.
    """
    built = {}
    for name, section in layout.items():
        with named(f"{source}, section '{name}'"):
            built[name] = section.build(**sections[name])
    return built


def merged(
    recipe: Mapping[str, Mapping[str, Any]], given: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Returns the sections of a recipe with those of the command line on top.

    A new width replaces the recipe's; ``weight_only`` of a recipe stays unless a width of activations is given.
    """
    sections = {name: {**values, **given.get(name, {})} for name, values in recipe.items()}
    quant, options = recipe["quant"], given.get("quant", {})
    kept = {} if "act_bits" in options else {"weight_only": quant.get("weight_only", False)}
    sections["quant"] = {**spelled_out(quant), **spelled_out({**kept, **options})}
    return sections


def one_of_each(
    options: Mapping[str, Any], overrides: Mapping[str, Any], only_options: Collection[str]
) -> dict[str, Any]:
    """Returns options and ``key=value`` words as one dictionary.

    Args:
        options: By name; None counts as not given.
        overrides: The words.
        only_options: Names that are options only.

    Raises:
        ConfigError: A word of an option's name, or two values for one name.
    """
    found = {name: value for name, value in options.items() if value is not None}
    for key, value in overrides.items():
        option = f"--{key.replace('_', '-')}"
        if key in only_options:
            raise ConfigError(f"{COMMAND_LINE}: '{key}' is an option, not a key=value. Use {option}.")
        if found.get(key, value) != value:
            raise ConfigError(f"{option} {found[key]} and {key}={value} disagree. Give one of them.")
        found[key] = value
    return found


def check_known(names: Collection[str], known: Sequence[str]) -> None:
    """Raises a `ConfigError` unless all names are known; the nearest is given."""
    for name in names:
        if name not in known:
            raise ConfigError(
                f"{COMMAND_LINE}: there is no option '{name}'.{did_you_mean(name, known)} Known: {', '.join(known)}."
            )


def _check_key(section: str, key: str, source: str, layout: Layout) -> None:
    known = layout[section].keys
    if known and key not in known:
        hint = _home(key, layout) or did_you_mean(key, known)
        raise ConfigError(f"{source}: section '{section}' has no '{key}'.{hint} Known: {', '.join(known)}.")
    if not known and key not in host_defaults() and key not in RESERVED and (hint := _home(key, layout)):
        raise ConfigError(f"{source}: section '{section}' has no '{key}'.{hint}")


def _home(key: str, layout: Layout) -> str:
    """Returns `` It belongs in section 'x'.`` for a key that some section takes, or an empty string."""
    for name, section in layout.items():
        if key in (section.keys or legal_keys()):
            return f" It belongs in section '{name}'."
    return ""
