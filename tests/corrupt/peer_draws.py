"""The reference's draws in our functions' hands: `numpy.random` called in the order in which the peer calls it."""

from __future__ import annotations

import numpy as np

from qreg_yolo.corrupt.draws import Draws


class PeerDraws(Draws):
    """Same interface, numbers from the global legacy generator (seed it before each of the two runs)."""

    def __init__(self) -> None:
        pass

    def u16(self, shape):
        raise NotImplementedError("no counterpart in the peer")

    def below(self, bound):
        return int(np.random.randint(bound))  # noqa: NPY002

    def angle(self, low, high):
        return float(np.random.uniform(low, high))  # noqa: NPY002

    def uniform(self, low, high, shape):
        return np.random.uniform(low, high, shape).astype(np.float32)  # noqa: NPY002

    def normal(self, loc, scale, shape, window=None):
        whole = np.random.normal(loc, scale, shape)  # noqa: NPY002
        return (whole if window is None else whole[window]).astype(np.float32)

    def normal_levels(self, sigma, shape):
        return np.floor(255.0 * np.random.normal(0.0, sigma, shape)).astype(np.int16)  # noqa: NPY002
