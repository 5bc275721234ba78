"""Matrix products of whole numbers: exact, and as fast as BLAS is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_EXACT_FLOAT32 = 1 << 24
"""Whole numbers up to here are exact in float32, whose matrix product takes half the time."""


def whole_product(
    left: NDArray[np.integer[Any] | np.bool_], right: NDArray[np.integer[Any] | np.bool_], largest: int
) -> NDArray[np.floating[Any]]:
    """Returns ``left @ right`` for counts, exactly, as float32 or float64.

    Args:
        left: `(..., inner)`: whole numbers, 0 or more.
        right: `(inner, columns)`: likewise.
        largest: A bound of every entry of the product; below 2**24 it is computed in float32.
    """
    exact = np.float32 if largest < _EXACT_FLOAT32 else np.float64
    # Some of OpenBLAS' kernels compute in lanes that they never store, and leave "invalid" raised (numpy issue 24067).
    with np.errstate(invalid="ignore"):
        product: NDArray[np.floating[Any]] = left.astype(exact) @ right.astype(exact)
    return product
