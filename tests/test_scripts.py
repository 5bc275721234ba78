"""The scripts beside the package import what exists."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests import ROOT

SCRIPTS = sorted(path for folder in ("benchmarks", "results", "tools") for path in (ROOT / folder).rglob("*.py"))
OPTIONAL = {"brevitas", "imagecorruptions", "modelopt", "torchao"}
"""Peers of the benchmarks that the development environment does not have."""


def imported(script: Path) -> Iterator[tuple[str, str | None]]:
    """Yields (module, name or None) of every import in a script, those inside functions too."""
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, "a script imports nothing relative"
            yield from ((node.module, alias.name) for alias in node.names)


def defined(script: Path) -> set[str]:
    """Returns the names that a script defines at its top level."""
    names = set()
    for node in ast.parse(script.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)}
    return names


def exists(module: str, name: str | None) -> bool:
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError:
        return False
    if name is None or hasattr(found, name):
        return True
    return hasattr(found, "__path__") and find_spec(f"{module}.{name}") is not None


def missing(script: Path) -> list[str]:
    """Returns the imports of a script that nothing answers."""
    lacking = []
    for module, name in imported(script):
        sibling = script.with_name(f"{module}.py")
        if sibling.is_file():
            there = name is None or name in defined(sibling)
        else:
            there = module.partition(".")[0] in OPTIONAL or exists(module, name)
        if not there:
            lacking.append(f"{module}.{name}" if name else module)
    return lacking


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_imports_of_a_script_exist(script: Path) -> None:
    assert missing(script) == []


def test_every_folder_of_scripts_is_looked_at() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in SCRIPTS} == {"benchmarks", "results", "tools"}


def test_a_name_that_moved_is_found(tmp_path: Path) -> None:
    (tmp_path / "report.py").write_text("SIZE: int = 3\nA, B = 1, 2\ndef shown(): ...\n")
    script = tmp_path / "script.py"
    script.write_text(
        "import qreg_yolo.detect.nowhere\n"
        "from qreg_yolo.io import records\n"
        "from qreg_yolo.io.process import THREADS_VARIABLE\n"
        "from qreg_yolo.io.files import THREADS_VARIABLE as moved\n"
        "from report import A, SIZE, shown, gone\n"
        "import brevitas.nn\n"
        "def late():\n"
        "    from ultralytics.utils import LOGGER, nothing_of_this_name\n"
    )
    assert missing(script) == [
        "qreg_yolo.detect.nowhere",
        "qreg_yolo.io.files.THREADS_VARIABLE",
        "report.gone",
        "ultralytics.utils.nothing_of_this_name",
    ]
