"""The documented command lines on classifiers, tables and figures, and the help texts, run through the console script."""

from __future__ import annotations

import pytest

from .documents import ROOT, subcommands
from .selection import of_detectors, representatives, runnable
from .workspace import Workspace, assert_as_documented

SCRIPTS = sorted(path.name for path in (ROOT / "tools").glob("*.py"))


@pytest.mark.parametrize("line", of_detectors(list(representatives().values()), False))
def test_one_per_subcommand(line: str, workspace: Workspace) -> None:
    assert_as_documented(line, workspace.run(line))


@pytest.mark.documented
@pytest.mark.parametrize("line", of_detectors(runnable(), False))
def test_all(line: str, workspace: Workspace) -> None:
    assert_as_documented(line, workspace.run(line))


@pytest.mark.documented
@pytest.mark.parametrize(
    "program", [*(f"qreg-yolo {name}" for name in subcommands()), *(f"python tools/{name}" for name in SCRIPTS)]
)
def test_help(program: str, workspace: Workspace) -> None:
    line = f"{program} --help"
    outcome = workspace.run(line)
    assert_as_documented(line, outcome)
    assert "Examples:\n" in outcome.stdout
