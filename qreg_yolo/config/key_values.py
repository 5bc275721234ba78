"""``key=value`` words of a command line, read by the type of their key; names of folders."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from enum import Flag, auto
from pathlib import PurePath
from typing import Any

from qreg_yolo.io.strict_yaml import ConfigError

__all__ = ["Kind", "check_folder_name", "describe", "parse_overrides", "read_value"]


class Kind(Flag):
    """Types that a key takes; a key may take several."""

    TEXT = auto()
    WHOLE = auto()
    NUMBER = auto()
    BOOL = auto()
    LIST = auto()
    NONE = auto()


_WHOLE = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_NAMES = {
    Kind.BOOL: "true or false",
    Kind.WHOLE: "a whole number",
    Kind.NUMBER: "a number",
    Kind.TEXT: "a text",
    Kind.LIST: "a list such as [1,2]",
    Kind.NONE: "none",
}


def parse_overrides(items: Iterable[str], kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """Returns the ``key=value`` words of a command line as a dictionary.

    The text begins after the first ``=`` and ends where the shell ends the word: it may hold spaces, ``#``, quotes,
    brackets and further ``=``. The type of the key decides what it means:

    - a text stays as it is, whatever it looks like: ``name=010``, ``name=no``, ``name=null``, ``name='x'`` (with its
      quotes);
    - a whole number is decimal and has no leading zero: ``10``, not ``010``; ``1e2`` and ``100.0`` are 100;
    - a number is ``1``, ``0.5``, ``.5`` or ``1e-3``;
    - true or false is ``true`` or ``false`` in any case; ``yes``, ``no``, ``on``, ``off``, ``1`` and ``0`` are errors;
    - a list is ``[0,1]``, ``(0,1)`` or ``0,1``; quotes around an entry are dropped;
    - keys that may be unset take ``none`` or ``null``, unless they are texts;
    - where a key takes a text or other types, any other word is the text.

    An empty value is an error. An unknown key has its text; whoever knows the keys refuses it.

    Args:
        items: The words.
        kinds: Key -> the types that it takes.

    Raises:
        ConfigError: An item without ``=``, a key given twice with different values, or a value of another type.

    >>> parse_overrides(["lr0=1e-3", "name=exp #1", "val=false"], {"lr0": Kind.NUMBER, "val": Kind.BOOL})
    {'lr0': 0.001, 'name': 'exp #1', 'val': False}
    """
    overrides: dict[str, Any] = {}
    for item in items:
        key, equals, text = item.partition("=")
        if not equals or not key.isidentifier():
            raise ConfigError(f"'{item}' is not key=value. Write for example epochs=50, without spaces around '='.")
        value = read_value(key, text, kinds.get(key, Kind.TEXT))
        if key in overrides and overrides[key] != value:
            raise ConfigError(f"{key}={overrides[key]} and {key}={value} disagree. Give one of them.")
        overrides[key] = value
    return overrides


def read_value(key: str, text: str, kind: Kind) -> Any:
    """Returns the value of a key, read from its text by the rule of `parse_overrides`.

    Raises:
        ConfigError: An empty text, or one that has none of the key's types.
    """
    if not text.strip():
        raise ConfigError(f"command line: {key}= has no value. Give one, or leave {key} out for its default.")
    if not kind & ~Kind.TEXT:
        return text
    word = text.strip()
    for one, read in _READERS.items():
        if one in kind and (found := read(word)) is not _NOTHING:
            return found
    if Kind.TEXT in kind:
        return text
    raise ConfigError(f"command line: {key}={text!r} is not {describe(kind)}.{_remedy(word, kind)}")


def describe(kind: Kind) -> str:
    """Returns the types of a key in words, such as ``a whole number or a list such as [1,2]``."""
    return " or ".join(name for one, name in _NAMES.items() if one in kind)


def check_folder_name(option: str, text: str) -> None:
    """Raises unless a text can name the folder of a run (``name``), or the folder that holds it (``project``).

    Any printable character is taken. A ``/`` in a name makes folders in the project's folder, as in Ultralytics.

    Args:
        option: ``name`` or ``project``, for the error text.
        text: What was given.

    Raises:
        ConfigError: A line break or another control character, a part that is too long for a file system, or a name
            that points outside the project's folder.
    """
    if any(unicodedata.category(character) in _UNPRINTABLE for character in text):
        raise ConfigError(f"{option}={text!r} has a character that cannot be printed. Leave it out.")
    if any(len(part.encode()) > _LONGEST for part in PurePath(text).parts):
        raise ConfigError(f"{option}={text!r:.80}... is longer than {_LONGEST} bytes. Give a shorter one.")
    if option == "name" and (PurePath(text).is_absolute() or not {".", ".."}.isdisjoint(text.split("/"))):
        raise ConfigError(f"name={text!r} points outside the project's folder. Give a name, and the folder as project.")


_UNPRINTABLE = frozenset(["Cc", "Cs", "Zl", "Zp"])
"""Unicode's categories of control characters, bytes that are no text, and line and paragraph separators."""
_LONGEST = 240
"""Bytes of a folder's name: file systems take 255, and ``-2`` and the like are appended."""
_NOTHING = object()
"""Result of a reader for a text that is not of its type."""


def _none(word: str) -> Any:
    return None if word.lower() in ("none", "null") else _NOTHING


def _bool(word: str) -> Any:
    return {"true": True, "false": False}.get(word.lower(), _NOTHING)


def _whole(word: str) -> Any:
    if _WHOLE.fullmatch(word):
        return int(word)
    value = _number(word)
    return int(value) if isinstance(value, float) and value.is_integer() else _NOTHING


def _number(word: str) -> Any:
    if not _NUMBER.fullmatch(word):
        return _NOTHING
    return int(word) if _WHOLE.fullmatch(word) else float(word)


def _list(word: str) -> Any:
    inner = word[1:-1] if word[0] + word[-1] in ("[]", "()") else word
    if (inner is word and "," not in word) or re.search(r"[][()]", inner):
        return _NOTHING
    return [_entry(part.strip()) for part in inner.split(",") if part.strip()]


def _entry(part: str) -> Any:
    number = _number(part)
    if number is not _NOTHING:
        return number
    return part[1:-1] if len(part) > 1 and part[0] == part[-1] and part[0] in "'\"" else part


_READERS: dict[Kind, Callable[[str], Any]] = {
    Kind.NONE: _none,
    Kind.BOOL: _bool,
    Kind.LIST: _list,
    Kind.NUMBER: _number,
    Kind.WHOLE: _whole,
}
"""Type -> its reader, in the order of trial."""


def _remedy(word: str, kind: Kind) -> str:
    if kind in (Kind.BOOL, Kind.BOOL | Kind.NONE):
        return " Write true or false."
    stripped = word.lstrip("0")
    if word != stripped and stripped and _NUMBER.fullmatch(stripped):
        return f" Leave the leading zero out: {stripped}."
    return ""
