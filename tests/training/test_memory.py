"""The allocator keeps freed memory, unless the user has set it up."""

from __future__ import annotations

import os
import platform
from unittest import mock

import pytest

from qreg_yolo.training.environment import keep_freed_memory
from tests.process_helpers import run_forked

FAULTS = """
import resource
from qreg_yolo.training.environment import keep_freed_memory

print(int(keep_freed_memory()) if {wanted} else 0)
for _ in range(10):
    b"1" * 2**26  # 64 MiB, more than glibc ever keeps of itself
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def run(wanted: bool) -> tuple[int, int]:
    """Returns whether the memory is kept, and the page faults of ten objects."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}
    with mock.patch.dict(os.environ, environment, clear=True):
        done = run_forked(FAULTS.format(wanted=wanted))
    assert done.returncode == 0, done.stderr
    kept, faults = done.stdout.split()
    return int(kept), int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_an_object_gets_the_pages_of_the_one_before() -> None:
    pages = 64 * 2**20 // os.sysconf("SC_PAGE_SIZE")
    kept, faults = run(wanted=True)
    _, by_default = run(wanted=False)
    assert kept == 1
    assert by_default > 10 * pages
    assert by_default - faults > 5 * pages


@pytest.mark.parametrize(
    "variables", [{"MALLOC_MMAP_THRESHOLD_": "1048576"}, {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}]
)
def test_what_the_user_has_set_up_stays(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert not keep_freed_memory()
