"""The documented command lines on detectors that were trained from scratch run through the installed console script."""

from __future__ import annotations

import pytest

from tests.documented.selection import of_detectors, runnable
from tests.documented.workspace import Workspace, assert_as_documented


@pytest.mark.documented
@pytest.mark.parametrize("line", of_detectors(runnable()), ids=str)
def test_all(line: str, workspace: Workspace) -> None:
    assert_as_documented(line, workspace.run(line))
