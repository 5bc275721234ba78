"""A few cases of the fuzzer; ``python -m tests.cli.fuzz`` runs hundreds."""

from __future__ import annotations

import pytest

from tests.cli.fuzz import KINDS, Kit, make_kit, run_case


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return make_kit(tmp_path_factory.mktemp("kit"))


@pytest.mark.parametrize("number", range(2 * len(KINDS)))
def test_damaged_files_end_in_a_message(number: int, kit: Kit) -> None:
    assert run_case(number, 1, kit).fault is None
