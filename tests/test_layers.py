"""The layers that the pages show are those that the import contract enforces."""

from __future__ import annotations

import re
import sys

import pytest

from tests import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Layers = list[tuple[str, ...]]


def contract() -> tuple[Layers, list[str]]:
    """Returns the layers of the contract, from the top, and what separates the modules of each."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (rows,) = (one["layers"] for one in settings["tool"]["importlinter"]["contracts"] if one["type"] == "layers")
    return layers_of(rows, prefix="qreg_yolo."), separators_of(rows)


def layers_of(rows: list[str], prefix: str = "") -> Layers:
    return [tuple(name.strip().removeprefix(prefix) for name in re.split(r"[|:,]", row)) for row in rows]


def separators_of(rows: list[str]) -> list[str]:
    return ["".join(sorted(set(re.findall(r"[|:,]", row)))).replace(":", ",") for row in rows]


def listed(page: str) -> list[str]:
    """Returns the rows of the list of layers in docs/architecture.md."""
    found = re.search(r"^```\n(cli\n.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert found
    return found[1].splitlines()


PAGE = ROOT / "docs" / "architecture.md"


def test_the_architecture_lists_the_layers_of_the_contract() -> None:
    layers, separators = contract()
    rows = listed(PAGE.read_text(encoding="utf-8"))
    assert layers_of(rows) == layers
    assert separators_of(rows) == separators


def test_the_contract_has_every_module_of_the_package() -> None:
    layers, _ = contract()
    names = [
        path.stem for path in (ROOT / "qreg_yolo").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    ]
    assert sorted(name for row in layers for name in row) == sorted(set(names) - {"__init__", "__main__"})


def test_the_files_that_the_architecture_names_exist() -> None:
    page = PAGE.read_text(encoding="utf-8")
    named = {name for name in re.findall(r"`((?:\w+/)+\w+\.py)`", page) if not name.startswith("tests/")}
    assert len(named) > 30
    assert [name for name in sorted(named) if not (ROOT / "qreg_yolo" / name).is_file()] == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("robustness | noise\n", ""),
        ("detect | classify\n", "detect, classify\n"),
        ("datasets\ncorrupt", "corrupt\ndatasets"),
    ],
)
def test_a_list_that_parts_from_the_contract_would_be_found(old: str, new: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    changed = listed(page.replace(old, new, 1))
    assert listed(page) != changed
    layers, separators = contract()
    assert layers_of(changed) != layers or separators_of(changed) != separators
