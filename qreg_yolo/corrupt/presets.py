"""The four published sets of constants, severity 1..5 each (arXiv 1903.12261; 1907.07484 for elastic and pixelate)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from qreg_yolo.corrupt.spec import (
    NAMES,
    SEVERITIES,
    Defocus,
    Elastic,
    Fog,
    Frost,
    Glass,
    Motion,
    Pixelate,
    Saturate,
    Snow,
    Spatter,
)
from qreg_yolo.errors import InvalidValueError, did_you_mean


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


def constants(name: str, severity: int, preset: str = "imagenet224") -> Any:
    """Returns the constants of one corruption at one severity.

    >>> constants("glass_blur", 3)
    Glass(sigma=1, max_delta=2, passes=3)

    Raises:
        ValueError: Unknown corruption, severity or preset.
    """
    if name not in NAMES:
        raise InvalidValueError(f"Unknown corruption '{name}'.{did_you_mean(name, NAMES)} Known: {', '.join(NAMES)}.")
    if isinstance(severity, bool) or severity not in SEVERITIES:
        raise InvalidValueError(f"Severity is {severity!r}: use an integer from 1 (mildest) to 5.")
    if preset not in PRESETS:
        raise InvalidValueError(
            f"Unknown preset '{preset}'.{did_you_mean(preset, PRESETS)} Known: {', '.join(PRESETS)}."
        )
    return PRESETS[preset][name][severity - 1]
