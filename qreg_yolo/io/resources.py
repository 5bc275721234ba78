"""Recipes, studies and data YAMLs that come with the package.

The source tree has them in its top-level folders ``hyp/`` and ``data/``, the wheel inside the package.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from qreg_yolo.errors import MissingFileError, did_you_mean


def recipe_path(name: str) -> Path:
    """Returns the file of a recipe.

    Args:
        name: A recipe of `recipe_names`, or the path of a YAML file (it ends in .yaml or .yml).

    Raises:
        FileNotFoundError: No such recipe (the nearest is named) or file.
    """
    return _find(name, recipe_names(), "hyp", "recipe")


def data_path(name: str) -> Path:
    """Returns the data YAML of a dataset: one of `data_names`, or the path of a YAML file; errors as `recipe_path`."""
    return _find(name, data_names(), "data", "dataset")


def study_path(name: str) -> Path:
    """Returns the file of a study: a shipped one, or the path of a YAML file; errors as `recipe_path`."""
    return _find(name, sorted(path.stem for path in _folder("hyp/studies").glob("*.yaml")), "hyp/studies", "study")


def recipe_names() -> list[str]:
    """Returns the names that `recipe_path` knows, sorted."""
    return sorted(path.stem for path in _folder("hyp").glob("*.yaml"))


def data_names() -> list[str]:
    """Returns the names that `data_path` knows, sorted."""
    return sorted(path.stem for path in _folder("data").glob("*.yaml"))


def _folder(kind: str) -> Path:
    """Returns the folder ``hyp`` or ``data``: of the installed package, else of the source tree."""
    package = Path(str(files("qreg_yolo")))
    inside = package / "_resources" / kind
    return inside if inside.is_dir() else package.parent / kind


def _find(name: str, names: list[str], kind: str, noun: str) -> Path:
    if name in names:
        return _folder(kind) / f"{name}.yaml"
    path = Path(name)
    is_yaml = path.suffix in (".yaml", ".yml")
    if is_yaml and path.is_file():
        return path
    raise MissingFileError(
        f"There is no {'file' if is_yaml else noun} '{name}'.{did_you_mean(path.stem, names)} "
        f"Give the path of a YAML file, or one of: {', '.join(names) or 'none'}."
    )
