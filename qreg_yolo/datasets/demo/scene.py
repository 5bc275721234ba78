"""One image of the built-in demo set: textured shapes on varied backgrounds, with the boxes of their visible parts.

Every pixel comes from integer arithmetic on the raw stream of PCG64 (which NumPy keeps stable between versions,
NEP 19), so the set is the same on every machine. Lengths named ``_q`` are in quarter pixels; object-local
coordinates ``u, v`` are scaled so that 1024 is the object's edge. Classes differ in shape and texture, and tend to a
colour; distractors borrow the textures for other shapes and have no label.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

GENERATOR_VERSION = 1
"""Part of every seed and of the cache folder's name; raise it with every change of a pixel or a label."""
CLASS_NAMES = ("disc", "box", "triangle", "cross", "ring")
SPLIT_SEEDS = {"train": 101, "val": 202}
MIN_VISIBLE_PERCENT = 30
"""Smallest visible share of a labelled object; the rest is occluded or beyond the border."""

_SIZES_WH = ((128, 96), (96, 128), (128, 112), (112, 128), (128, 128))
_HALF_SIZES_PX = ((8, 12), (13, 19), (13, 19), (20, 29), (30, 40))
_COS_1024 = tuple(round(1024 * math.cos(math.radians(12 * k))) for k in range(-2, 3))
_SIN_1024 = tuple(round(1024 * math.sin(math.radians(12 * k))) for k in range(-2, 3))

IntArray = npt.NDArray[np.int32]
Image = npt.NDArray[np.uint8]
_T = TypeVar("_T")


class Label(NamedTuple):
    """One labelled object: ``class_id`` and the box of its visible pixels, centre and size as shares of the image."""

    class_id: int
    x: float
    y: float
    w: float
    h: float


class _Draws:
    """Random integers from ``entropy`` (a sequence of non-negative integers)."""

    def __init__(self, *entropy: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(entropy))

    def integer(self, low: int, high: int) -> int:
        """Returns an integer in [low, high]."""
        return low + int(self._bits.random_raw()) % (high - low + 1)

    def pick(self, items: Sequence[_T]) -> _T:
        """Returns one of ``items``."""
        return items[self.integer(0, len(items) - 1)]

    def levels(self, *shape: int) -> IntArray:
        """Returns integers in [0, 255] of the given shape."""
        raw = np.asarray(self._bits.random_raw(math.prod(shape)), dtype=np.uint64)
        return (raw >> np.uint64(56)).astype(np.int32).reshape(shape)


# Shapes: (u, v) -> boolean mask, same shape.
def _disc(u: IntArray, v: IntArray) -> npt.NDArray[np.bool_]:
    return u * u + v * v <= 1024 * 1024


def _box(u: IntArray, v: IntArray) -> npt.NDArray[np.bool_]:
    return np.maximum(abs(u), abs(v)) <= 1024


def _triangle(u: IntArray, v: IntArray) -> npt.NDArray[np.bool_]:
    return (abs(v) <= 1024) & (2 * abs(u) <= v + 1024)


def _cross(u: IntArray, v: IntArray) -> npt.NDArray[np.bool_]:
    return (np.minimum(abs(u), abs(v)) <= 340) & _box(u, v)


def _ring(u: IntArray, v: IntArray) -> npt.NDArray[np.bool_]:
    return _disc(u, v) & (u * u + v * v >= 560 * 560)


def _bar(u: IntArray, v: IntArray) -> npt.NDArray[np.bool_]:
    return (abs(u) <= 1024) & (abs(v) <= 150)


def _half_disc(u: IntArray, v: IntArray) -> npt.NDArray[np.bool_]:
    return _disc(u, v) & (v > 200)


# Textures: (u, v, cell) -> share of the second colour, 0 to 256.
def _shaded(u: IntArray, v: IntArray, cell: int) -> IntArray:
    del cell
    share: IntArray = np.minimum(((u + 350) ** 2 + (v + 350) ** 2) >> 13, 256)
    return share


def _checker(u: IntArray, v: IntArray, cell: int) -> IntArray:
    return 256 * (((u + 1024) // cell + (v + 1024) // cell) & 1)


def _stripes(u: IntArray, v: IntArray, cell: int) -> IntArray:
    del u
    return 256 * (((v + 1024) // cell) & 1)


def _plain(u: IntArray, v: IntArray, cell: int) -> IntArray:
    del v, cell
    return np.zeros_like(u)


def _sectors(u: IntArray, v: IntArray, cell: int) -> IntArray:
    del cell
    return 256 * ((u > 0) ^ (v > 0) ^ (abs(u) > abs(v))).astype(np.int32)


def _dots(u: IntArray, v: IntArray, cell: int) -> IntArray:
    distance = (u % cell - cell // 2) ** 2 + (v % cell - cell // 2) ** 2
    return 256 * (distance < (cell // 3) ** 2).astype(np.int32)


_Shape = Callable[[IntArray, IntArray], npt.NDArray[np.bool_]]
_Texture = Callable[[IntArray, IntArray, int], IntArray]
_TEXTURES: tuple[_Texture, ...] = (_shaded, _checker, _stripes, _plain, _sectors, _dots)
_DISTRACTOR_SHAPES: tuple[_Shape, ...] = (_bar, _half_disc)
_CLASSES: tuple[tuple[_Shape, _Texture, tuple[int, int, int]], ...] = (
    (_disc, _shaded, (40, 60, 220)),
    (_box, _checker, (220, 90, 40)),
    (_triangle, _stripes, (50, 200, 60)),
    (_cross, _plain, (40, 210, 220)),
    (_ring, _sectors, (210, 50, 200)),
)
"""Shape, texture and the colour (BGR) that the objects of a class tend to, in the order of `CLASS_NAMES`."""


@dataclass(frozen=True)
class _Item:
    """One thing to paint; ``class_id`` None is a distractor."""

    class_id: int | None
    shape: _Shape
    texture: _Texture
    x: int
    """Centre in pixels, may lie near the border; so is ``y``."""
    y: int
    half_w: int
    """Half the width in pixels before the rotation; so is ``half_h``."""
    half_h: int
    turn: int
    """Index into the table of rotations."""
    cell: int
    """Period of the texture in local units."""
    colors: IntArray
    """The two colours, ``(2, 3)``, BGR, 0 to 255."""

    def local(self, rows_q: IntArray, cols_q: IntArray) -> tuple[IntArray, IntArray]:
        """Returns ``u, v`` at the given quarter-pixel rows ``(h,)`` and columns ``(w,)``; shapes ``(h, w)``."""
        dy, dx = rows_q[:, None] - 4 * self.y, cols_q[None, :] - 4 * self.x
        cos, sin = _COS_1024[self.turn], _SIN_1024[self.turn]
        return (dx * cos + dy * sin) // (4 * self.half_w), (dy * cos - dx * sin) // (4 * self.half_h)


def _draw_colors(draws: _Draws, tint: Sequence[int]) -> IntArray:
    """Returns two colours ``(2, 3)``: one halfway between ``tint`` and any colour, one that differs in each channel."""
    first = (np.array(tint, dtype=np.int32) + draws.levels(3)) // 2
    swing = 80 + draws.levels(3) * 40 // 255
    return np.stack([first, np.where(first > 127, first - swing, first + swing)])


def _draw_item(draws: _Draws, width: int, height: int, class_id: int | None) -> _Item:
    """Returns an item somewhere in the image; one in four may be cut by the border."""
    low, high = draws.pick(_HALF_SIZES_PX)
    half = draws.integer(low, high)
    half_w, half_h = (max(5, half * draws.integer(75, 125) // 100) for _ in range(2))
    margin_percent = 20 if draws.integer(0, 3) == 0 else 95
    margin_x, margin_y = (
        min(width * 45, half_w * margin_percent) // 100,
        min(height * 45, half_h * margin_percent) // 100,
    )
    if class_id is None:
        shape, texture = draws.pick(_DISTRACTOR_SHAPES), draws.pick(_TEXTURES)
        tint: Sequence[int] = [draws.integer(0, 255) for _ in range(3)]
    else:
        shape, texture, tint = _CLASSES[class_id]
    return _Item(
        class_id, shape, texture,
        x=draws.integer(margin_x, width - margin_x), y=draws.integer(margin_y, height - margin_y),
        half_w=half_w, half_h=half_h, turn=draws.integer(0, len(_COS_1024) - 1),
        cell=2048 // draws.integer(4, 6), colors=_draw_colors(draws, tint),
    )  # fmt: skip


def _crowds(item: _Item, others: Sequence[_Item]) -> bool:
    """Returns whether the centre is so near another one that one object would hide the other."""
    return any(
        4 * abs(item.x - o.x) < 3 * (item.half_w + o.half_w) and 4 * abs(item.y - o.y) < 3 * (item.half_h + o.half_h)
        for o in others
    )


def _draw_items(draws: _Draws, width: int, height: int) -> list[_Item]:
    """Returns at most one distractor, then one to five objects, in the order of painting."""
    items = [_draw_item(draws, width, height, None) for _ in range(draws.integer(0, 1))]
    for _ in range(draws.integer(1, 5)):
        class_id = draws.integer(0, len(CLASS_NAMES) - 1)
        candidates = (_draw_item(draws, width, height, class_id) for _ in range(6))
        item = next((c for c in candidates if not _crowds(c, [o for o in items if o.class_id is not None])), None)
        items += [] if item is None else [item]
    return items


def _smooth_noise(draws: _Draws, width: int, height: int, cell: int) -> IntArray:
    """Returns blobs of about ``cell`` pixels, ``(height, width, 3)``, 0 to 255: bilinear between random knots."""
    knots = draws.levels(height // cell + 2, width // cell + 2, 3)
    y, x = np.arange(height, dtype=np.int32), np.arange(width, dtype=np.int32)
    fy, fx = (y % cell)[:, None, None], (x % cell)[None, :, None]
    top, bottom = knots[y // cell], knots[y // cell + 1]
    rows = top * (cell - fy) + bottom * fy
    sums = rows[:, x // cell] * (cell - fx) + rows[:, x // cell + 1] * fx
    blobs: IntArray = np.floor_divide(sums, cell * cell)
    return blobs


def _background(draws: _Draws, width: int, height: int) -> IntArray:
    """Returns ``(height, width, 3)``, 0 to 255: gradient, stripes, blobs or fine noise around a muted colour."""
    base = 60 + draws.levels(3) // 2
    y, x = np.arange(height, dtype=np.int32)[:, None], np.arange(width, dtype=np.int32)[None, :]
    slope_x, slope_y, kind = draws.integer(-50, 50), draws.integer(-50, 50), draws.integer(0, 3)
    plane = slope_x * x // width + slope_y * y // height
    if kind == 1:
        period = draws.integer(8, 24)
        plane = plane + 30 * (((x * draws.integer(0, 2) + y * draws.integer(1, 2)) // period) & 1)
    image = base + plane[:, :, None]
    if kind >= 2:
        image = image + (_smooth_noise(draws, width, height, 24 if kind == 2 else 5) - 128) * 60 // 256
    return np.clip(image, 0, 255)


def _paint(image: IntArray, owner: IntArray, item: _Item, number: int) -> int:
    """Paints ``item`` in place, marks its pixels in ``owner``; returns its area in pixels, parts outside included."""
    reach = item.half_w + item.half_h + 1
    rows = np.arange(item.y - reach, item.y + reach, dtype=np.int32)
    cols = np.arange(item.x - reach, item.x + reach, dtype=np.int32)
    fine = item.shape(*item.local((4 * rows[:, None] + (1, 3)).ravel(), (4 * cols[:, None] + (1, 3)).ravel()))
    cover = fine.reshape(len(rows), 2, len(cols), 2).sum(axis=(1, 3), dtype=np.int32)
    mix = item.texture(*item.local(4 * rows + 2, 4 * cols + 2), item.cell)[:, :, None]
    paint = (item.colors[0] * (256 - mix) + item.colors[1] * mix) // 256
    y, x = (rows >= 0) & (rows < image.shape[0]), (cols >= 0) & (cols < image.shape[1])
    inside, at = np.ix_(y, x), np.ix_(rows[y], cols[x])
    alpha = cover[inside][:, :, None]
    image[at] = (image[at] * (4 - alpha) + paint[inside] * alpha) // 4
    owner[at] = np.where(cover[inside] >= 2, number, owner[at])
    return int((cover >= 2).sum())


def _visible_label(owner: IntArray, number: int, area: int, class_id: int) -> Label | None:
    """Returns the label of the visible pixels, as VOC's guidelines ask; None where too little is visible."""
    rows, cols = np.nonzero(owner == number)
    if 100 * len(rows) < MIN_VISIBLE_PERCENT * area or not len(rows):
        return None
    top, bottom, left, right = rows.min(), rows.max() + 1, cols.min(), cols.max() + 1
    height, width = owner.shape
    box = ((left + right) / (2 * width), (top + bottom) / (2 * height), (right - left) / width, (bottom - top) / height)
    return Label(class_id, *(float(value) for value in box))


def draw_image(split: str, index: int) -> tuple[Image, list[Label]]:
    """Returns image ``index`` of ``split`` ("train" or "val") as ``(h, w, 3)`` BGR uint8, and its labels."""
    draws = _Draws(GENERATOR_VERSION, SPLIT_SEEDS[split], index)
    width, height = draws.pick(_SIZES_WH)
    image = _background(draws, width, height)
    owner = np.full((height, width), -1, dtype=np.int32)
    items = _draw_items(draws, width, height)
    areas = [_paint(image, owner, item, number) for number, item in enumerate(items)]
    noise = draws.levels(height, width, 1) // 32 - 4
    labels = [
        _visible_label(owner, number, areas[number], item.class_id)
        for number, item in enumerate(items) if item.class_id is not None
    ]  # fmt: skip
    return np.clip(image + noise, 0, 255).astype(np.uint8), [label for label in labels if label is not None]
