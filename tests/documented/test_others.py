"""The other documented command lines, and the help texts, run through the installed console script."""

from __future__ import annotations

import pytest

from tests import ROOT
from tests.documented.documents import subcommands
from tests.documented.selection import of_detectors, runnable
from tests.documented.workspace import Workspace, assert_as_documented

PROGRAMS = [
    *(f"qreg-yolo {name}" for name in subcommands()),
    *(
        f"python tools/{path.name}"
        for path in sorted((ROOT / "tools").glob("*.py"))
        if "cli import main" in path.read_text()
    ),
]
"""The subcommands, and the scripts that are the same under another name."""


@pytest.mark.documented
@pytest.mark.parametrize("line", of_detectors(runnable(), False), ids=str)
def test_all(line: str, workspace: Workspace) -> None:
    assert_as_documented(line, workspace.run(line))


@pytest.mark.documented
@pytest.mark.parametrize("program", PROGRAMS)
def test_help(program: str, workspace: Workspace) -> None:
    line = f"{program} --help"
    outcome = workspace.run(line)
    assert_as_documented(line, outcome)
    assert "Examples:\n" in outcome.stdout
