"""The recipes and data descriptions that come with the package.

They stand in the top-level folders ``hyp/`` and ``data/`` of the source tree; the wheel carries them inside the
package.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from qreg_yolo.errors import MissingFileError
from qreg_yolo.suggest import did_you_mean


def recipe_path(name: str) -> Path:
    """Returns the file of a recipe.

    Args:
        name: A recipe of `recipe_names`, or the path of a YAML file (it ends in .yaml or .yml).

    Raises:
        FileNotFoundError: No such recipe (the nearest is named) or file.
    """
    return _find("hyp", name, "recipe")


def data_path(name: str) -> Path:
    """Returns the file that describes a data set.

    Args:
        name: A description of `data_names`, or the path of a YAML file (it ends in .yaml or .yml).

    Raises:
        FileNotFoundError: No such description (the nearest is named) or file.
    """
    return _find("data", name, "data set")


def recipe_names() -> list[str]:
    """Returns the names that `recipe_path` knows, sorted."""
    return _names("hyp")


def data_names() -> list[str]:
    """Returns the names that `data_path` knows, sorted."""
    return _names("data")


def _folder(kind: str) -> Path:
    """Returns the folder ``hyp`` or ``data``: inside the installed package, else beside it in the source tree."""
    package = Path(str(files("qreg_yolo")))
    inside = package / "_resources" / kind
    return inside if inside.is_dir() else package.parent / kind


def _names(kind: str) -> list[str]:
    return sorted(path.stem for path in _folder(kind).glob("*.yaml"))


def _find(kind: str, name: str, noun: str) -> Path:
    names = _names(kind)
    if name in names:
        return _folder(kind) / f"{name}.yaml"
    path = Path(name)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return path
    raise MissingFileError(
        f"There is no {'file' if path.suffix in ('.yaml', '.yml') else noun} '{name}'.{did_you_mean(path.stem, names)} "
        f"Give the path of a YAML file, or one of: {', '.join(names) or 'none'}."
    )
