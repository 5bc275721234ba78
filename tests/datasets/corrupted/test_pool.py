"""Results in order from processes that end with their parent."""

from __future__ import annotations

import os
from contextlib import closing

import cv2
import pytest

from qreg_yolo.datasets.corrupted.pool import PoolError, run_ordered


def describe(number: int) -> tuple[int, int]:
    return number * number, cv2.getNumThreads()


def die(number: int) -> None:
    os._exit(9)


@pytest.mark.parametrize("workers", [0, 2])
def test_results_come_in_order_from_single_threaded_opencv(workers: int) -> None:
    before = cv2.getNumThreads()
    with closing(run_ordered(describe, range(20), workers)) as results:
        found = list(results)
    assert [square for square, _ in found] == [i * i for i in range(20)]
    assert {threads for _, threads in found} <= {0, 1}
    assert cv2.getNumThreads() == before


def test_a_worker_that_is_killed_is_said() -> None:
    with pytest.raises(PoolError, match="fewer --workers"):
        list(run_ordered(die, range(3), 1))
