"""One working folder per session."""

from __future__ import annotations

import pytest

from tests.documented.workspace import Workspace


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Returns the folder in which the documented commands run, empty at first."""
    return Workspace(tmp_path_factory.mktemp("documented"))
