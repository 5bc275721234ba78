"""From real numbers to grey levels, as the originals do it: cut to the range and floored."""

from __future__ import annotations

import numpy as np

from qreg_yolo.corrupt.draws import FloatImage, Image


def to_uint8(values: FloatImage) -> Image:
    """Returns ``floor(clip(values, 0, 255))`` as uint8; overwrites its argument.

    The originals cast ``255 x`` to uint8, which floors: every such path darkens by half a level on average. Kept.
    """
    np.clip(values, 0.0, 255.0, out=values)
    return values.astype(np.uint8)
