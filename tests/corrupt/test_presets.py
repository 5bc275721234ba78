"""The presets without a peer, pixel by pixel against a plain float64 version fed with the published constants."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from qreg_yolo.corrupt import CORRUPTIONS, NAMES, PRESETS, SEVERITIES, FrostOverlays, constants, draws_for, noise
from tests.corrupt import originals
from tests.corrupt.golden import psnr
from tests.corrupt.peer_draws import PeerDraws
from tests.corrupt.published import FROST_SCALE, SIZE, plain, published
from tests.corrupt.synthetic_images import IMAGES, blocks, texture

OVERLAYS = (texture(330, 350), blocks(340, 360))
TABLES = ("shot_noise", "impulse_noise")
"""Their draws go through tables: tested as distributions below."""
OPENCV_4 = int(cv2.__version__.split(".")[0]) < 5
LIMITS = {
    "zoom_blur": (53.0, 4, 1.0),
    "elastic_transform": (50.0, 8, 1.0) if OPENCV_4 else (54.0, 2, 1e-3),
    "spatter": (55.0, 15, 1e-3),
}
"""PSNR at least, largest difference, share of pixels off by more than 1 at most."""
ON_THE_EDGE = {
    "defocus_blur": (48.0, 1, 0.0),
    "motion_blur": (50.0, 1, 0.0),
    "glass_blur": (50.0, 2, 0.2),
    "zoom_blur": (50.0, 5, 1.0),  # for steps from black to white: samples lie hundredths of a px apart
}
"""The same for flat patches and even ramps: a blur leaves whole numbers there, and the last bit decides their floor."""


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", NAMES)
def test_every_constant_is_the_published_one(name: str, preset: str) -> None:
    for severity, expected in zip(SEVERITIES, published(preset, name), strict=True):
        assert plain(constants(name, severity, preset), name) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("preset", "side"), [("imagenet224", None), ("cifar32", 32), ("tiny64", 64), ("inception299", 512)]
)
def test_side_of_the_fog_map_and_scale_of_frost(preset: str, side: int | None) -> None:
    assert {constants("fog", s, preset).map_size for s in SEVERITIES} == {side}
    assert {constants("frost", s, preset).overlay_scale for s in SEVERITIES} == {FROST_SCALE.get(preset)}


def _expected(name, image, c, preset, severity):
    x = image / 255
    if name == "glass_blur":
        return originals.glass_blur(x, c, draws_for(0, "glass", name, severity))
    if name == "fog":
        return originals.fog(x, c, {"cifar32": 32, "tiny64": 64, "inception299": 512}[preset])
    if name == "frost":
        return originals.frost(x, c, OVERLAYS, FROST_SCALE[preset])
    return getattr(originals, name)(x, c)


def _side(preset, name):
    """Returns px: smaller than published where that takes long, and where no ``size / factor`` is a whole number."""
    return 119 if preset == "inception299" and name != "elastic_transform" else SIZE[preset]


@pytest.mark.parametrize("title", IMAGES)
@pytest.mark.parametrize("preset", SIZE)
@pytest.mark.parametrize("name", [name for name in NAMES if name not in TABLES])
def test_same_draws_give_the_same_pixels(name: str, preset: str, title: str) -> None:
    side = _side(preset, name)
    image = IMAGES[title](side, side)
    for severity, c in zip(SEVERITIES, published(preset, name), strict=True):
        values = constants(name, severity, preset)
        if name == "frost":
            values = values._replace(overlays=FrostOverlays(OVERLAYS, "test"))
        np.random.seed(severity)  # noqa: NPY002 - as the peer draws
        expected = _expected(name, image, c, preset, severity)
        np.random.seed(severity)  # noqa: NPY002
        rng = draws_for(0, "glass", name, severity) if name == "glass_blur" else PeerDraws()
        ours = CORRUPTIONS[name](image, values, rng)
        difference = abs(expected.astype(int) - ours)
        limits = LIMITS if title == "texture" else LIMITS | ON_THE_EDGE
        least, largest, share = limits.get(name, (55.0, 1, 0.0))
        where = f"severity {severity}: {psnr(ours, expected):.1f} dB, {difference.max()}"
        assert difference.max() <= largest, where
        assert psnr(ours, expected) >= least, where
        assert (difference > 1).any(axis=2).mean() <= share, where


class _EveryDraw(PeerDraws):
    """Each of the 65,536 equally likely draws once."""

    def u16(self, shape):
        return np.arange(1 << 16, dtype=np.uint16).reshape(shape)


@pytest.mark.parametrize("preset", PRESETS)
def test_impulse_noise_replaces_the_published_share(preset: str) -> None:
    image = np.full((128, 512, 1), 100, np.uint8)
    for severity, amount in zip(SEVERITIES, published(preset, "impulse_noise"), strict=True):
        result = noise.impulse_noise(image, constants("impulse_noise", severity, preset), _EveryDraw())
        shares = [(result == level).mean() for level in (0, 255, 100)]
        assert shares == pytest.approx([amount / 2, amount / 2, 1 - amount], abs=2 / 65536)


@pytest.mark.parametrize("preset", PRESETS)
def test_shot_noise_has_the_published_poisson_distribution(preset: str) -> None:
    from scipy.stats import poisson

    for severity, photons in zip(SEVERITIES, published(preset, "shot_noise"), strict=True):
        for level in (3, 100, 255):
            image = np.full((128, 512, 1), level, np.uint8)
            result = noise.shot_noise(image, constants("shot_noise", severity, preset), _EveryDraw())
            counts = np.arange(3 * photons + 40)
            expected = np.zeros(256)
            places = (np.minimum(counts / photons, 1) * 255).astype(np.uint8)
            np.add.at(expected, places, poisson.pmf(counts, level / 255 * photons))
            found = np.bincount(result.ravel(), minlength=256) / result.size
            assert abs(found - expected).max() <= 2 / 65536
