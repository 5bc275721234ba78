"""Names of the corruptions and of their constants (standard library only).

Sources: Hendrycks & Dietterich 2019 (arXiv 1903.12261), whose four sets of constants are the presets (`presets.py`),
and Michaelis et al. 2019 (arXiv 1907.07484), who carried the 224-pixel set unscaled to images of any size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from qreg_yolo.corrupt.frost import FrostOverlays

BENCHMARK_NAMES = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
"""The benchmark's 15, in canonical order."""
NAMES = (*BENCHMARK_NAMES, "speckle_noise", "gaussian_blur", "spatter", "saturate")
"""All 19: the benchmark's, then the four that were meant for validation."""
DETERMINISTIC_NAMES = frozenset(
    {
        "defocus_blur",
        "zoom_blur",
        "brightness",
        "contrast",
        "pixelate",
        "jpeg_compression",
        "gaussian_blur",
        "saturate",
    }
)
"""Corruptions without random numbers."""
SEVERITIES = (1, 2, 3, 4, 5)


class Defocus(NamedTuple):
    """Disk of `radius` px, softened by a Gaussian of `alias_sigma` px."""

    radius: float
    alias_sigma: float


class Glass(NamedTuple):
    """Gaussian of `sigma` px around `passes` passes that move pixels by at most `max_delta` px."""

    sigma: float
    max_delta: int
    passes: int


class Motion(NamedTuple):
    """One-sided Gaussian of `sigma` px, cut after ``2 radius + 1`` px."""

    radius: int
    sigma: float


class Snow(NamedTuple):
    """Flakes: N(`loc`, `scale`) zoomed, kept from `threshold` on, blurred; `mix` is the share of the plain image."""

    loc: float
    scale: float
    zoom: float
    threshold: float
    radius: int
    sigma: float
    mix: float


class Frost(NamedTuple):
    """Weights of image and overlay; `overlay_scale` shrinks the overlay (None: it is made to cover the image)."""

    image_weight: float
    frost_weight: float
    overlay_scale: float | None = None
    overlays: FrostOverlays | None = None


class Fog(NamedTuple):
    """`amount` of a plasma whose amplitude falls by ``decay^2`` per level; `map_size` px (None: from the image)."""

    amount: float
    decay: float
    map_size: int | None = None


class Elastic(NamedTuple):
    """Displacement by noise of U(-`noise`, `noise`), smoothed by `sigma` = (y, x), times `alpha`.

    With `relative`, `noise` and `sigma` are shares of the image's height, and of height and width; otherwise pixels.
    `affine` moves three anchor points by up to so many pixels beforehand (None: no affine map).
    """

    alpha: float
    sigma: tuple[float, float]
    noise: float = 1.0
    affine: float | None = None
    relative: bool = False


class Pixelate(NamedTuple):
    """Down to `scale` by box means, and up again by nearest neighbour or by box."""

    scale: float
    nearest: bool = False


class Saturate(NamedTuple):
    """HSV saturation S becomes ``gain * S + offset``."""

    gain: float
    offset: float


class Spatter(NamedTuple):
    """Drops where N(`loc`, `scale`), smoothed by `sigma` px, reaches `threshold`.

    `strength` is the water's, or the px by which mud is smoothed.
    """

    loc: float
    scale: float
    sigma: float
    threshold: float
    strength: float
    mud: bool
