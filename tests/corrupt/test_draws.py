from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath, PureWindowsPath

import numpy as np
import pytest

from qreg_yolo.corrupt import corrupt, draws_for, image_key
from qreg_yolo.corrupt.draws import Draws, normal_table
from tests.corrupt.synthetic_images import texture


def _digest(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def test_the_raw_draws_are_these_under_every_version():
    rng = draws_for(7, "a/000001.jpg", "snow", 3)
    assert _digest(rng.u16((33, 7)).astype("<u2")) == "d0b76254139a0781"
    assert [rng.below(b) for b in (2, 5, 1000, 1 << 40)] == [0, 4, 620, 608546282921]
    assert _digest(rng._words((9, 11), "<u4").astype("<u4")) == "d4663771d6394a5c"
    assert rng.angle(-45.0, 45.0) == -8.268216539467126


@pytest.mark.parametrize(
    ("name", "digest"),
    [("gaussian_noise", "bf2c41e8922e85ea"), ("shot_noise", "2bd655b6e39bba5d"), ("impulse_noise", "7c103c29855961ff")],
)
def test_pixels_of_table_paths_are_these_under_every_version(name, digest):
    assert _digest(corrupt(texture(), name, 3, seed=1, key="x.jpg")) == digest


@pytest.mark.parametrize(("name", "digest"), [("brightness", "04a0a576b9c84699"), ("contrast", "5cd93ae0e6dcb5a5")])
def test_pixels_of_tables_without_draws(name, digest):
    assert _digest(corrupt(texture(), name, 3)) == digest


@pytest.mark.parametrize(
    "other", [(8, "a.jpg", "snow", 3), (7, "b.jpg", "snow", 3), (7, "a.jpg", "fog", 3), (7, "a.jpg", "snow", 4)]
)
def test_each_of_the_four_changes_the_draws(other):
    base = draws_for(7, "a.jpg", "snow", 3).u16((64,))
    assert np.array_equal(base, draws_for(7, "a.jpg", "snow", 3).u16((64,)))
    assert not np.array_equal(base, draws_for(*other).u16((64,)))


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match="seed is -1: use 0"):
        draws_for(-1, "a.jpg", "snow", 3)


def test_order_and_number_of_workers_do_not_matter():
    jobs = [(f"{i}.jpg", name) for i in range(6) for name in ("gaussian_noise", "glass_blur", "snow", "fog", "frost")]

    def run(job):
        return _digest(corrupt(texture(), job[1], 2, seed=5, key=job[0]))

    alone = {job: run(job) for job in jobs}
    with ThreadPoolExecutor(4) as pool:
        together = dict(zip(jobs[::-1], pool.map(run, jobs[::-1]), strict=True))
    assert alone == together
    assert len(set(alone.values())) == len(jobs)


def test_the_global_generator_is_neither_read_nor_moved():
    np.random.seed(3)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    corrupt(texture(), "spatter", 4)
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_an_image_key_is_relative_and_posix():
    folder = PureWindowsPath(r"C:\voc\images\test2007")
    assert image_key(folder / "a" / "1.jpg", folder) == "a/1.jpg"
    with pytest.raises(ValueError, match="subpath"):
        image_key(PurePosixPath("/elsewhere/1.jpg"), PurePosixPath("/voc/images"))


def test_a_key_may_hold_any_file_name():
    draws_for(0, "caf\udce9/ünï.jpg", "snow", 1)  # a name that is not UTF-8, as Python reads it


@pytest.mark.parametrize(("low", "high"), [(-45.0, 45.0), (0.0, 1.0)])
def test_uniform_numbers_are_uniform(low, high):
    values = Draws(lambda: np.random.SFC64(0)).uniform(low, high, (200_000,))
    counts, _ = np.histogram(values, 20, (low, high))
    assert values.min() >= low
    assert values.max() <= high
    assert abs(counts / 10_000 - 1).max() < 0.04  # four standard deviations


def test_below_reaches_every_value_equally():
    rng = Draws(lambda: np.random.SFC64(0))
    counts = np.bincount([rng.below(5) for _ in range(5000)])
    assert len(counts) == 5
    assert abs(counts / 1000 - 1).max() < 0.13


def test_normal_table_has_the_moments_and_quantiles_of_the_normal_distribution():
    table = normal_table(0.0, 1.0).astype(np.float64)
    assert abs(table.mean()) < 1e-7
    assert table.std() == pytest.approx(1.0, abs=2e-4)
    assert (table**4).mean() == pytest.approx(3.0, abs=0.01)
    assert (np.abs(table) < 1.959964).mean() == pytest.approx(0.95, abs=2e-5)


def test_a_window_of_normal_numbers_has_the_windows_shape():
    assert draws_for(0, "", "snow", 1).normal(0, 1, (40, 50), (slice(3, 9), slice(10, 50))).shape == (6, 40)
