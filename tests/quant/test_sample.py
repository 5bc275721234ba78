"""The sample of a layer's inputs."""

from __future__ import annotations

import math

import pytest
import torch

from qreg_yolo.quant.sample import SAMPLE_SIZE, InputSample, _spread


@pytest.mark.parametrize("shape", [(2, 64, 64, 64), (1, 3, 96, 96), (5, 7), (1,), (2,)])
@pytest.mark.parametrize("count", [10, 1000, SAMPLE_SIZE])
def test_the_sample_meets_every_row_column_and_channel_alike(shape, count):
    places = torch.stack(torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij"))
    for axis, n in enumerate(shape):
        seen = torch.bincount(_spread(places[axis], count), minlength=n)
        total = min(count, math.prod(shape))
        assert seen.sum() == total
        assert (seen.max() - seen.min()).item() <= max(3, 0.5 * total / n)


def test_a_plain_stride_would_not():
    columns = torch.arange(64).expand(2, 64, 64, 64).flatten()[::512]
    assert columns.unique().tolist() == [0]


def test_a_sample_of_all_values_is_all_values():
    x = torch.randn(3, 5, 7)
    assert torch.equal(_spread(x, 1000).sort().values, x.flatten().sort().values)


def test_batches_have_equal_shares_and_the_sample_is_bounded():
    sample = InputSample()
    for value in range(10):
        sample.add(torch.full((SAMPLE_SIZE + 3,), float(value)))
    kept = sample.values("mse")
    assert SAMPLE_SIZE // 2 < kept.numel() <= SAMPLE_SIZE
    assert torch.bincount(kept.long()).unique().numel() == 1


def test_what_is_left_of_a_batch_comes_from_all_of_its_images():
    sample = InputSample()
    for _ in range(6):
        sample.add(torch.arange(16.0).repeat_interleave(3 * SAMPLE_SIZE).reshape(16, 3, 256, 256))
    for part in sample.values("mse").split(len(sample.values("mse")) // 6):
        seen = torch.bincount(part.long(), minlength=16)
        assert part.numel() < SAMPLE_SIZE // 4
        assert (seen.max() - seen.min()).item() <= 10  # of 512


def test_many_small_batches_stay_bounded_too():
    sample = InputSample()
    for _ in range(300):
        sample.add(torch.rand(1000))
    assert sample.values("mse").numel() <= SAMPLE_SIZE + 1000


def test_the_extremes_are_exact_although_the_sample_misses_them():
    sample = InputSample()
    for low, high in ((-3.0, 1.0), (-1.0, 7.0)):
        batch = torch.rand(4 * SAMPLE_SIZE)
        batch[12345], batch[54321] = low, high
        sample.add(batch)
    assert sample.values("mse").aminmax().max < 7.0
    assert sample.values("minmax").tolist() == [-3.0, 7.0]
    assert sample.has_negative


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_noticed_anywhere(bad):
    sample = InputSample()
    assert sample.finite
    assert not sample.seen
    assert not sample.has_negative
    sample.add(torch.zeros(0, 3))
    assert not sample.seen
    batch = torch.rand(4 * SAMPLE_SIZE)
    batch[7] = bad
    sample.add(batch)
    sample.add(torch.rand(5))
    assert sample.seen
    assert not sample.finite
