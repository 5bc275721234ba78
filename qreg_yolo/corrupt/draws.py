"""Random numbers that depend on (seed, image key, corruption, severity) alone.

All come from a bit generator's raw 64-bit words, which NumPy keeps stable across its versions; the methods of
`numpy.random.Generator` carry no such promise.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Callable
from functools import cached_property, lru_cache
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from qreg_yolo.errors import InvalidValueError

Image: TypeAlias = npt.NDArray[np.uint8]
"""`(h, w, 3)`, RGB, 0..255."""
FloatImage: TypeAlias = npt.NDArray[np.float32]
Shape: TypeAlias = tuple[int, ...]

_LEVELS = 1 << 16


class Draws:
    """The draws of one image, taken in order from a bit generator.

    Args:
        make_bits: Gives it, at the first draw: 8 of the 19 corruptions draw nothing, and it costs what a small image
            does. Its raw 64-bit words are used from the low end, whatever the machine's byte order.
    """

    def __init__(self, make_bits: Callable[[], np.random.BitGenerator]) -> None:
        self._make_bits = make_bits

    @cached_property
    def _bits(self) -> np.random.BitGenerator:
        return self._make_bits()

    def _words(self, shape: Shape, dtype: str) -> npt.NDArray[np.unsignedinteger]:
        """Returns uniform unsigned integers of a little-endian type, e.g. ``<u2``."""
        count = math.prod(shape)
        per_raw = 8 // np.dtype(dtype).itemsize
        raw = np.atleast_1d(np.asarray(self._bits.random_raw(-(-count // per_raw)), np.uint64))
        words: npt.NDArray[np.unsignedinteger] = raw.astype("<u8", copy=False).view(dtype)[:count].reshape(shape)
        return words

    def u16(self, shape: Shape) -> npt.NDArray[np.unsignedinteger]:
        """Returns uniform integers 0..65535."""
        return self._words(shape, "<u2")

    def below(self, bound: int) -> int:
        """Returns a uniform integer in ``[0, bound)``."""
        return int(self._bits.random_raw()) * bound >> 64

    def angle(self, low: float, high: float) -> float:
        """Returns one uniform number in ``[low, high)``."""
        return low + (high - low) * ((int(self._bits.random_raw()) >> 11) * 2.0**-53)

    def uniform(self, low: float, high: float, shape: Shape) -> FloatImage:
        """Returns uniform float32 numbers in ``[low, high]``, made from 32 bits each."""
        numbers = self._words(shape, "<u4").astype(np.float32)
        numbers *= np.float32((high - low) * 2.0**-32)
        numbers += np.float32(low)
        return numbers

    def normal(self, loc: float, scale: float, shape: Shape, window: tuple[slice, ...] | None = None) -> FloatImage:
        """Returns N(loc, scale) as float32, from 65,536 quantiles (so at most 4.3 scales from loc).

        Args:
            loc: Mean.
            scale: Standard deviation.
            shape: Of the whole field.
            window: The part that is needed; the rest is neither drawn nor returned.
        """
        if window is not None:
            shape = tuple(len(range(size)[part]) for size, part in zip(shape, window, strict=True))
        return normal_table(loc, scale).take(self.u16(shape))

    def normal_levels(self, sigma: float, shape: Shape) -> npt.NDArray[np.int16]:
        """Returns ``floor(255 N(0, sigma))``: the change of a grey level by normal noise when the sum is floored."""
        return _normal_level_table(sigma).take(self.u16(shape))


def draws_for(seed: int, key: str, name: str, severity: int) -> Draws:
    """Returns the draws of one image under one corruption.

    Args:
        seed: Of the whole experiment, 0 or larger.
        key: The image: its path relative to its split's image folder, with ``/`` (`image_key`).
        name: The corruption.
        severity: 1..5.

    Raises:
        ValueError: A negative seed.
    """
    if seed < 0:
        raise InvalidValueError(f"The seed is {seed}: use 0 or a positive integer.")
    return Draws(lambda: _bit_generator(seed, key, name, severity))


def _bit_generator(seed: int, key: str, name: str, severity: int) -> np.random.BitGenerator:
    image = int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")
    entropy = [seed, image, zlib.crc32(name.encode()), severity]
    return np.random.SFC64(np.random.SeedSequence(entropy))


@lru_cache(maxsize=1)
def _quantiles() -> npt.NDArray[np.float64]:
    """Returns the standard normal's quantiles at ``(i + 1/2) / 65536``."""
    inverse = NormalDist().inv_cdf
    upper = np.array([inverse((i + 0.5) / _LEVELS) for i in range(_LEVELS // 2, _LEVELS)])
    return np.concatenate([-upper[::-1], upper])


@lru_cache(maxsize=64)
def normal_table(loc: float, scale: float) -> FloatImage:
    """Returns the 65,536 quantiles of N(loc, scale), ascending."""
    return (loc + scale * _quantiles()).astype(np.float32)


@lru_cache(maxsize=32)
def _normal_level_table(sigma: float) -> npt.NDArray[np.int16]:
    return np.floor(255.0 * sigma * _quantiles()).astype(np.int16)


def to_uint8(values: FloatImage) -> Image:
    """Returns ``floor(clip(values, 0, 255))`` as uint8; overwrites its argument.

    The originals cast ``255 x`` to uint8, which floors: every such path darkens by half a level on average. Kept.
    """
    np.clip(values, 0.0, 255.0, out=values)
    return values.astype(np.uint8)
