"""The classes of a data set and those of a model, matched by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_SHOWN = 5
"""Names of a kind that an error lists at most."""


class ClassesError(ValueError):
    """Classes that differ; the text says in what, and the caller which data and model they are of."""


def class_names(names: Mapping[Any, Any] | Sequence[Any]) -> list[str]:
    """Returns the names of classes 0, 1, ... of a data description or a model, which hold a list or a mapping."""
    listed = [names[key] for key in sorted(names, key=int)] if isinstance(names, Mapping) else names
    return [str(name) for name in listed]


def rows_by_name(names: Sequence[str], model_names: Sequence[str]) -> tuple[int, ...] | None:
    """Returns the model's class of each class of the data; None where both list the same names in the same order.

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
