"""Errors that a user can cause and mend: each text states the fact, the value, the remedy and the nearest name.

The command line shows these as they are; any other exception is a fault of the program, and is shown as one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches


class UserError(Exception):
    """Base class of every error that a user can cause."""


class InvalidValueError(UserError, ValueError):
    """A value outside its range or choices."""


class InvalidTypeError(UserError, TypeError):
    """A value of the wrong type."""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that does not exist."""


class FileAccessError(UserError, OSError):
    """A file or folder that cannot be read or written."""


class DataError(UserError, ValueError):
    """A dataset that exists and cannot be used."""


class WeightsError(UserError, ValueError):
    """A file that is not a usable checkpoint."""


class ModelError(UserError, ValueError):
    """A model YAML that does not describe a detector."""


class AnalysisError(UserError, ValueError):
    """Measurements that cannot be compared or drawn."""


class NetworkError(UserError, ConnectionError):
    """A connection that was not asked for, or that failed."""


class UnsupportedError(UserError, NotImplementedError):
    """Something that this version, or the installed version of another package, cannot do."""


class CalibrationError(UserError, RuntimeError):
    """A quantizer without a range: no calibration batch, none that reached its layer, or values that are not finite."""


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Returns a sentence to append, with the candidate nearest to ``name``, or an empty string.

    >>> did_you_mean("epcohs", ["epochs", "imgsz"])
    " Did you mean 'epochs'?"
    >>> did_you_mean("zzz", ["epochs"])
    ''
    """
    close = get_close_matches(str(name), list(candidates), n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raises `InvalidValueError` unless ``value`` is one of ``choices``; the nearest is named."""
    if value not in choices:
        raise InvalidValueError(
            f"{name}={value!r} is not one of: {', '.join(choices)}.{did_you_mean(str(value), choices)}"
        )


def check_same_settings(
    folder: object, before: Mapping[str, object], now: Mapping[str, object], remedy: str, error: type[UserError]
) -> None:
    """Raises ``error`` where work in a folder would be continued with other settings; each of them is named."""
    changed = [
        f"{name}={before.get(name)}, this call has {name}={now.get(name)}"
        for name in dict.fromkeys([*now, *before])
        if before.get(name) != now.get(name)
    ]
    if changed:
        raise error(f"'{folder}' was begun with other settings: {'; '.join(changed)}. {remedy}")


SHOWN_FAULTS = 10
"""Most faults that an error lists."""


def fault_list(faults: Sequence[object], indent: str = "  ") -> str:
    r"""Returns the first few faults, each on a new line, and the number of the others.

    >>> fault_list(["a", "b"])
    '\n  a\n  b'
    >>> fault_list(range(12))[-17:]
    '\n  ... and 2 more'
    """
    more = [f"... and {len(faults) - SHOWN_FAULTS} more"] if len(faults) > SHOWN_FAULTS else []
    return "".join(f"\n{indent}{line}" for line in [*faults[:SHOWN_FAULTS], *more])
