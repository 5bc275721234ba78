"""The corruptions' names and constants as frozen values (standard library only).

Sources: Hendrycks & Dietterich 2019 (arXiv 1903.12261), whose four sets of constants are the presets, and Michaelis et
al. 2019 (arXiv 1907.07484), who carried the 224-pixel set unscaled to images of any size.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from qreg_yolo.suggest import did_you_mean

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
"""Those that draw nothing."""
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


def _steps(stop: float, step: float) -> tuple[float, ...]:
    """Returns 1.0, 1.0 + step, ... with ``stop`` included, whatever the rounding.

    The factors carry the rounding errors of the originals' `numpy.arange`: crops are as long as ``ceil(size / factor)``
    and grow to ``round(length * factor)``, where the last bit can decide.
    """
    delta = (1.0 + step) - 1.0
    return tuple(1.0 + i * delta for i in range(round((stop - 1.0) / step) + 1))


_WIDE_ZOOM = (_steps(1.11, 0.01), _steps(1.15, 0.01), _steps(1.20, 0.02), _steps(1.24, 0.02), _steps(1.30, 0.03))
_FINE_ZOOM = tuple(_steps(stop, 0.01) for stop in (1.06, 1.11, 1.15, 1.20, 1.25))
_LARGE_SNOW = (
    Snow(0.1, 0.3, 3, 0.5, 10, 4, 0.8),
    Snow(0.2, 0.3, 2, 0.5, 12, 4, 0.7),
    Snow(0.55, 0.3, 4, 0.9, 12, 8, 0.7),
    Snow(0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
    Snow(0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
)
_LARGE_FROST = (Frost(1, 0.4), Frost(0.8, 0.6), Frost(0.7, 0.7), Frost(0.65, 0.7), Frost(0.6, 0.75))


def _small_snow(*mixes: float) -> tuple[Snow, ...]:
    """Returns the snow of the 32 and 64 pixel sets, which differ in the mix alone."""
    flakes = (
        (0.1, 0.2, 1, 0.6, 8, 3),
        (0.1, 0.2, 1, 0.5, 10, 4),
        (0.15, 0.3, 1.75, 0.55, 10, 4),
        (0.25, 0.3, 2.25, 0.6, 12, 6),
        (0.3, 0.3, 1.25, 0.65, 14, 12),
    )
    return tuple(Snow(*flake, mix) for flake, mix in zip(flakes, mixes, strict=True))


def _affine_elastic(*rows: tuple[float, float, float]) -> tuple[Elastic, ...]:
    """Returns the original elastic constants from rows of (alpha, sigma, affine), all in px."""
    return tuple(Elastic(alpha, (sigma, sigma), affine=affine) for alpha, sigma, affine in rows)


_IMAGENET224: dict[str, tuple[Any, ...]] = {
    "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),
    "shot_noise": (60, 25, 12, 5, 3),
    "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),
    "defocus_blur": (Defocus(3, 0.1), Defocus(4, 0.5), Defocus(6, 0.5), Defocus(8, 0.5), Defocus(10, 0.5)),
    "glass_blur": (Glass(0.7, 1, 2), Glass(0.9, 2, 1), Glass(1, 2, 3), Glass(1.1, 3, 2), Glass(1.5, 4, 2)),
    "motion_blur": (Motion(10, 3), Motion(15, 5), Motion(15, 8), Motion(15, 12), Motion(20, 15)),
    "zoom_blur": _WIDE_ZOOM,
    "snow": _LARGE_SNOW,
    "frost": _LARGE_FROST,
    "fog": (Fog(1.5, 2), Fog(2, 2), Fog(2.5, 1.7), Fog(2.5, 1.5), Fog(3, 1.4)),
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
    "elastic_transform": tuple(
        Elastic(alpha, (0.01, 0.01), noise=0.005, relative=True) for alpha in (12.5, 16.25, 21.25, 25, 30)
    ),
    "pixelate": tuple(Pixelate(scale, nearest=True) for scale in (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": (25, 18, 15, 10, 7),
    "speckle_noise": (0.15, 0.2, 0.35, 0.45, 0.6),
    "gaussian_blur": (1, 2, 3, 4, 6),
    "spatter": (
        Spatter(0.65, 0.3, 4, 0.69, 0.6, False),
        Spatter(0.65, 0.3, 3, 0.68, 0.6, False),
        Spatter(0.65, 0.3, 2, 0.68, 0.5, False),
        Spatter(0.65, 0.3, 1, 0.65, 1.5, True),
        Spatter(0.67, 0.4, 1, 0.65, 1.5, True),
    ),
    "saturate": (Saturate(0.3, 0), Saturate(0.1, 0), Saturate(2, 0), Saturate(5, 0.1), Saturate(20, 0.2)),
}
_CIFAR32: dict[str, tuple[Any, ...]] = {
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.1),
    "shot_noise": (500, 250, 100, 75, 50),
    "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),
    "defocus_blur": (Defocus(0.3, 0.4), Defocus(0.4, 0.5), Defocus(0.5, 0.6), Defocus(1, 0.2), Defocus(1.5, 0.1)),
    "glass_blur": (Glass(0.05, 1, 1), Glass(0.25, 1, 1), Glass(0.4, 1, 1), Glass(0.25, 1, 2), Glass(0.4, 1, 2)),
    "motion_blur": (Motion(6, 1), Motion(6, 1.5), Motion(6, 2), Motion(8, 2), Motion(9, 2.5)),
    "zoom_blur": _FINE_ZOOM,
    "snow": _small_snow(0.95, 0.9, 0.9, 0.85, 0.8),
    "frost": tuple(Frost(i, f, 0.2) for i, f in ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))),
    "fog": tuple(Fog(amount, decay, 32) for amount, decay in ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),
    "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    "elastic_transform": _affine_elastic(
        (0, 0, 2.56), (1.6, 6.4, 2.24), (2.56, 1.92, 1.92), (3.2, 1.28, 1.6), (3.2, 0.96, 0.96)
    ),
    "pixelate": tuple(Pixelate(scale) for scale in (0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg_compression": (80, 65, 58, 50, 40),
    "speckle_noise": (0.06, 0.1, 0.12, 0.16, 0.2),
    "gaussian_blur": (0.4, 0.6, 0.7, 0.8, 1),
    "spatter": (
        Spatter(0.62, 0.1, 0.7, 0.7, 0.5, False),
        Spatter(0.65, 0.1, 0.8, 0.7, 0.5, False),
        Spatter(0.65, 0.3, 1, 0.69, 0.5, False),
        Spatter(0.65, 0.1, 0.7, 0.69, 0.6, True),
        Spatter(0.65, 0.1, 0.5, 0.68, 0.6, True),
    ),
    "saturate": (Saturate(0.3, 0), Saturate(0.1, 0), Saturate(1.5, 0), Saturate(2, 0.1), Saturate(2.5, 0.2)),
}
_TINY64: dict[str, tuple[Any, ...]] = _CIFAR32 | {
    "gaussian_noise": (0.04, 0.08, 0.12, 0.15, 0.18),
    "shot_noise": (250, 100, 50, 30, 15),
    "impulse_noise": (0.01, 0.02, 0.05, 0.08, 0.14),
    "defocus_blur": (Defocus(0.5, 0.6), Defocus(1, 0.1), Defocus(1.5, 0.1), Defocus(2.5, 0.01), Defocus(3, 0.1)),
    "glass_blur": (Glass(0.1, 1, 1), Glass(0.5, 1, 1), Glass(0.6, 1, 2), Glass(0.7, 2, 1), Glass(0.9, 2, 2)),
    "motion_blur": (Motion(10, 1), Motion(10, 1.5), Motion(10, 2), Motion(10, 2.5), Motion(12, 3)),
    "snow": _small_snow(0.8, 0.8, 0.7, 0.65, 0.6),
    "frost": tuple(Frost(i, f, 0.3) for i, f in ((1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55))),
    "fog": tuple(Fog(amount, decay, 64) for amount, decay in ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75))),
    "brightness": _IMAGENET224["brightness"],
    "contrast": _IMAGENET224["contrast"],
    "elastic_transform": _affine_elastic(
        (0, 0, 5.12), (3.2, 19.2, 3.84), (6.4, 5.12, 3.84), (6.4, 1.92, 1.92), (10.24, 1.92, 1.28)
    ),
    "pixelate": tuple(Pixelate(scale) for scale in (0.9, 0.8, 0.7, 0.6, 0.5)),
    "jpeg_compression": (65, 58, 50, 40, 25),
    "speckle_noise": (0.15, 0.2, 0.25, 0.3, 0.35),
    "gaussian_blur": (0.5, 0.75, 1, 1.25, 1.5),
    "spatter": (
        Spatter(0.62, 0.1, 0.7, 0.7, 0.6, False),
        Spatter(0.65, 0.1, 0.8, 0.7, 0.6, False),
        Spatter(0.65, 0.3, 1, 0.69, 0.6, False),
        Spatter(0.65, 0.1, 0.7, 0.68, 0.6, True),
        Spatter(0.65, 0.1, 0.5, 0.67, 0.6, True),
    ),
    "saturate": (Saturate(0.3, 0), Saturate(0.1, 0), Saturate(2, 0), Saturate(5, 0.1), Saturate(30, 0.2)),
}
_INCEPTION299: dict[str, tuple[Any, ...]] = _IMAGENET224 | {
    "gaussian_noise": (0.09, 0.13, 0.19, 0.27, 0.4),
    "shot_noise": (50, 20, 10, 5, 3),
    "impulse_noise": (0.04, 0.07, 0.1, 0.18, 0.28),
    "defocus_blur": (Defocus(4, 0.1), Defocus(5, 0.5), Defocus(7, 0.5), Defocus(10, 0.5), Defocus(12, 0.5)),
    "glass_blur": (Glass(0.8, 1, 3), Glass(1, 3, 1), Glass(1.1, 2, 4), Glass(1.2, 4, 2), Glass(1.6, 5, 2)),
    "motion_blur": (Motion(12, 4), Motion(17, 6), Motion(17, 9), Motion(17, 13), Motion(22, 16)),
    "fog": tuple(Fog(amount, decay, 512) for amount, decay in ((1.5, 2), (2, 2), (2.5, 1.8), (2.5, 1.6), (3, 1.5))),
    "elastic_transform": _affine_elastic(
        (720, 252, 36), (720, 28.8, 72), (18, 3.6, 7.2), (25.2, 3.6, 7.2), (43.2, 3.6, 7.2)
    ),
    "pixelate": tuple(Pixelate(scale) for scale in (0.5, 0.4, 0.3, 0.25, 0.2)),
    "jpeg_compression": (23, 16, 13, 8, 5),
    "speckle_noise": (0.16, 0.21, 0.36, 0.46, 0.61),
    "gaussian_blur": (1.5, 2.5, 3.5, 4.5, 6.5),
    "spatter": (
        Spatter(0.65, 0.3, 4, 0.69, 0.9, False),
        Spatter(0.65, 0.3, 3.5, 0.68, 0.9, False),
        Spatter(0.65, 0.3, 3, 0.68, 0.8, False),
        Spatter(0.65, 0.3, 1.2, 0.65, 1.8, True),
        Spatter(0.67, 0.4, 1.2, 0.65, 1.8, True),
    ),
}
PRESETS: Mapping[str, Mapping[str, tuple[Any, ...]]] = MappingProxyType(
    {
        "imagenet224": MappingProxyType(_IMAGENET224),
        "cifar32": MappingProxyType(_CIFAR32),
        "tiny64": MappingProxyType(_TINY64),
        "inception299": MappingProxyType(_INCEPTION299),
    }
)
"""Preset -> corruption -> constants of severity 1..5. `imagenet224`, the default, is used unscaled for any size."""


def check_name(name: str) -> None:
    """Raises ValueError, with the nearest name, unless ``name`` is one of `NAMES`."""
    if name not in NAMES:
        raise ValueError(f"Unknown corruption '{name}'.{did_you_mean(name, NAMES)} Known: {', '.join(NAMES)}.")


def constants(name: str, severity: int, preset: str = "imagenet224") -> Any:
    """Returns the constants of one corruption at one severity.

    >>> constants("glass_blur", 3)
    Glass(sigma=1, max_delta=2, passes=3)

    Raises:
        ValueError: Unknown corruption, severity or preset.
    """
    check_name(name)
    if isinstance(severity, bool) or severity not in SEVERITIES:
        raise ValueError(f"Severity is {severity!r}: use an integer from 1 (mildest) to 5.")
    if preset not in PRESETS:
        raise ValueError(f"Unknown preset '{preset}'.{did_you_mean(preset, PRESETS)} Known: {', '.join(PRESETS)}.")
    return PRESETS[preset][name][severity - 1]
