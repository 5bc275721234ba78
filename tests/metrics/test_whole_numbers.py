"""Products of counts are exact on both sides of float32's limit, and a kernel's stray flag is not an error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qreg_yolo.metrics.predictions import whole_product


@pytest.mark.parametrize(("largest", "dtype"), [((1 << 24) - 1, np.float32), (1 << 24, np.float64)])
def test_the_product_is_exact_up_to_its_bound(largest: int, dtype: type) -> None:
    left, right = np.array([[largest - 1, 1], [0, 1]]), np.array([[1, 0], [1, 1]])
    product = whole_product(left, right, largest)
    assert product.dtype == dtype
    assert product.tolist() == (left @ right).tolist()


def test_float32_would_not_have_been_enough_above_it() -> None:
    left, right = np.array([[1 << 24, 1]]), np.ones((2, 1), int)
    assert int(whole_product(left, right, (1 << 24) + 1)[0, 0]) == (1 << 24) + 1
    assert int(whole_product(left, right, 1)[0, 0]) == 1 << 24


class Flagged(np.ndarray):
    """Numbers whose matrix product leaves the processor's "invalid" flag raised, as that of some BLAS kernels does."""

    def astype(self, *args: Any, **kwargs: Any) -> Any:
        return super().astype(*args, **kwargs).view(Flagged)

    def __matmul__(self, other: Any) -> Any:
        np.subtract(np.inf, np.inf)
        return np.asarray(self) @ other


def test_an_invalid_flag_left_raised_by_blas_is_not_an_error() -> None:
    left, right = np.ones((2, 2), int).view(Flagged), np.ones((2, 1), int)
    with pytest.warns(RuntimeWarning, match="invalid value"):
        left @ right
    assert whole_product(left, right, 2).tolist() == [[2.0], [2.0]]
