"""Each trap and equation by hand or by a slow oracle of its own."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from qreg_yolo.corrupt import FrostOverlays, blur, constants, draws_for, noise, weather
from qreg_yolo.corrupt.draws import Draws
from qreg_yolo.corrupt.frost import plasma
from qreg_yolo.corrupt.spec import Defocus, Fog, Glass, Motion, Snow, Spatter
from tests.corrupt.synthetic_images import blocks, gradient


def _rng(key="x"):
    return draws_for(0, key, "test", 1)


def _flat(level, height=40, width=48):
    return np.full((height, width, 3), level, np.uint8)


# ------------------------------------------------------------------------------------------------ noise


@pytest.mark.parametrize(("name", "amount"), [("gaussian_noise", 0.2), ("speckle_noise", 0.4)])
def test_normal_noises_have_their_sigma_and_are_floored(name, amount):
    result = getattr(noise, name)(_flat(127, 400, 400), amount, _rng()).astype(float)
    inside = (result > 0) & (result < 255)
    sigma = amount * (255 if name == "gaussian_noise" else 127)
    assert np.median(result[inside]) == pytest.approx(126.5, abs=0.75)
    quartiles = np.quantile(result, [0.25, 0.75])
    assert (quartiles[1] - quartiles[0]) / 1.349 == pytest.approx(sigma, rel=0.02)


def test_shot_noise_is_poisson():
    result = noise.shot_noise(_flat(102, 300, 300), 25, _rng())  # rate 10
    for count in range(4, 18):
        expected = math.exp(-10) * 10**count / math.factorial(count)
        level = int(min(count / 25, 1.0) * 255)
        assert (result == level).mean() == pytest.approx(expected, abs=4 * math.sqrt(expected / result.size) + 1e-5)
    assert not noise.shot_noise(_flat(0), 25, _rng()).any()


@pytest.mark.parametrize("photons", [60, 500])
def test_shot_table_rows_ascend_and_have_the_poissons_mean(photons):
    table = noise._shot_table(float(photons)).reshape(256, -1)
    assert (np.diff(table.astype(int), axis=1) >= 0).all()
    assert table[100].mean() == pytest.approx(100, abs=0.6)  # floored: half a level low at most


def test_impulse_noise_replaces_single_channel_values_half_black_half_white():
    result = noise.impulse_noise(_flat(127, 400, 400), 0.2, _rng())
    assert (result == 0).mean() == pytest.approx(0.1, abs=0.003)
    assert (result == 255).mean() == pytest.approx(0.1, abs=0.003)
    assert set(np.unique(result)) == {0, 127, 255}
    whole = ((result == result[..., :1]).all(axis=2) & (result[..., 0] != 127)).mean()
    assert whole < 0.005  # 2 x 0.1^3 where each value is drawn on its own, 0.2 for whole pixels


# ------------------------------------------------------------------------------------------------ blur


@pytest.mark.parametrize("max_delta", [1, 2, 3, 4, 5])
def test_glass_equals_the_sequential_swap_of_views_which_copies(max_delta):
    height, width = 61, 83
    sources = blur.glass_sources(height, width, max_delta, _rng(str(max_delta)))
    pixels = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = pixels.copy()
    for h in range(height - max_delta, max_delta, -1):
        for w in range(width - max_delta, max_delta, -1):
            y, x = divmod(int(sources[h * width + w]), width)
            assert -max_delta <= y - h < max_delta
            assert -max_delta <= x - w < max_delta
            expected[h, w], expected[y, x] = expected[y, x], expected[h, w]
    result = pixels.reshape(-1, 3)[blur.copy_sources(sources)].reshape(pixels.shape)
    assert np.array_equal(result, expected)
    assert len(np.unique(blur.copy_sources(sources))) < 0.8 * height * width  # a true swap would keep every pixel


def test_glass_offsets_are_uniform_without_the_upper_bound():
    sources = blur.glass_sources(300, 300, 3, _rng()).reshape(300, 300)[4:298, 4:298]
    shift = sources - np.arange(90_000).reshape(300, 300)[4:298, 4:298]
    y = np.rint(shift / 300).astype(int)
    assert sorted(np.unique(y)) == [-3, -2, -1, 0, 1, 2]
    assert sorted(np.unique(shift - 300 * y)) == [-3, -2, -1, 0, 1, 2]
    assert y.mean() == pytest.approx(-0.5, abs=0.03)
    assert (shift - 300 * y).mean() == pytest.approx(-0.5, abs=0.03)


@pytest.mark.parametrize(
    ("severity", "kept", "shift"),
    [(1, 0.535, -0.99), (2, 0.514, -0.71), (3, 0.27, -2.12), (4, 0.313, -1.58), (5, 0.303, -1.65)],
)
def test_glass_keeps_as_many_pixels_and_drifts_as_far_as_the_original(severity, kept, shift):
    """Expected values: measured on the original (500 x 375)."""
    c = constants("glass_blur", severity)
    rng, origin = _rng(str(severity)), np.arange(375 * 500)
    for _ in range(c.passes):
        origin = origin[blur.copy_sources(blur.glass_sources(375, 500, c.max_delta, rng))]
    assert len(np.unique(origin)) / origin.size == pytest.approx(kept, abs=0.01)
    assert (origin // 500 - np.arange(375 * 500) // 500).mean() == pytest.approx(shift, abs=0.05)


def test_motion_blur_is_one_sided_along_its_angle():
    point = np.zeros((41, 41), np.float32)
    point[20, 20] = 1000.0
    result = blur.blur_along(point, 10, 3.0, 0.0)
    weights = np.exp(-(np.arange(21.0) ** 2) / 18)
    assert result[20, 20::-1] == pytest.approx(1000 * weights / weights.sum(), abs=1e-3)
    assert not result[20, 21:].any()
    assert np.count_nonzero(result.sum(axis=1)) == 1
    assert blur.blur_along(point, 10, 3.0, -90.0)[20:, 20] == pytest.approx(1000 * weights / weights.sum(), abs=1e-3)


def test_motion_blur_darkens_an_image_smaller_than_its_kernel():
    image = np.full((32, 32), 200.0, np.float32)
    kept = np.exp(-(np.arange(41.0) ** 2) / 450)
    assert blur.blur_along(image, 20, 15.0, 0.0).max() == pytest.approx(200 * kept[:32].sum() / kept.sum(), abs=0.01)
    assert blur.blur_along(np.full((42, 42), 200.0, np.float32), 20, 15.0, 0.0).max() == pytest.approx(200, abs=0.01)


def _interpolate(values, at, axis):
    return np.apply_along_axis(lambda line: np.interp(at, np.arange(len(line)), line), axis, values)


def test_zoom_blur_counts_the_image_twice():
    image = blocks()
    assert np.array_equal(blur.zoom_blur(image, (1.0,), _rng()), image)
    at = np.arange(88) * (43 / 87)  # factor 2 of an image whose centre is known, end samples on end samples
    zoomed = _interpolate(_interpolate(image[:44, :60].astype(float), at, 0), np.arange(120) * (59 / 119), 1)
    whole = np.pad(image[:44, :60], ((22, 22), (30, 30), (0, 0)))
    expected = (2.0 * whole + zoomed) / 3
    assert abs(blur.zoom_blur(whole, (1.0, 2.0), _rng()) - np.floor(expected)).max() <= 1


@pytest.mark.parametrize(("radius", "side", "count"), [(3, 7, 29), (6, 13, 113), (10, 21, 317)])
def test_the_disk_covers_the_pixels_within_its_radius(radius, side, count):
    kernel = blur.disk(Defocus(radius, 0.01))
    assert kernel.shape == (side, side)
    assert np.count_nonzero(kernel) == count
    assert kernel.sum() == pytest.approx(1, abs=1e-5)


def test_gaussian_blur_repeats_edges_and_stops_at_four_sigma():
    image = np.zeros((40, 40, 3), np.uint8)
    image[:, 20:] = 255
    weights = np.exp(-(np.arange(-8, 9.0) ** 2) / 8)
    expected = np.floor(255 * np.cumsum(weights / weights.sum()))
    result = blur.gaussian_blur(image, 2, _rng())[5, :, 0].astype(int)
    assert abs(result[12:29] - expected).max() <= 1
    assert not result[:12].any()
    assert result[-1] >= 254


# ------------------------------------------------------------------------------------------------ weather


class _Fixed(Draws):
    """Draws that are known: the first overlay, its row 2 and column 3."""

    def __init__(self, *values):
        self.values = list(values)

    def below(self, bound):
        return self.values.pop(0)

    def angle(self, low, high):
        return self.values.pop(0)

    def normal(self, loc, scale, shape, window=None):
        field = np.full(shape, np.float32(loc))
        return field if window is None else field[window]


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_frost_weighs_image_and_overlay(severity):
    overlay = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (120, 140, 3), dtype=np.uint8)
    overlays = FrostOverlays((overlay,), "test")
    c = constants("frost", severity)._replace(overlays=overlays)
    larger = cv2.resize(overlay, (154, 132), interpolation=cv2.INTER_CUBIC)  # times 1.1
    size = overlays.fitted(0, 88, 120, None).shape
    assert size == larger.shape
    image = blocks()
    tenths = round(100 * c.image_weight) * image.astype(int) + round(100 * c.frost_weight) * larger[2:90, 3:123].astype(
        int
    )
    assert np.array_equal(weather.frost(image, c, _Fixed(0, 2, 3)), np.minimum(tenths // 100, 255))


def test_fog_leaves_black_black_and_keeps_the_brightest_level_in_range():
    assert not weather.fog(_flat(0), Fog(1.5, 2), _rng()).any()
    foggy = weather.fog(_flat(100), Fog(1.5, 2), _rng()).astype(float)
    share = 100 / 255 / (100 / 255 + 1.5)
    assert foggy.min() >= math.floor(100 * share) - 1
    assert foggy.max() <= 100 + 1
    assert foggy.std() > 5


@pytest.mark.parametrize("side", [32, 64])
def test_the_plasma_spans_0_to_1(side):
    field = plasma(side, 2.0, _rng())
    assert (field.shape, field.min(), field.max()) == ((side, side), 0.0, 1.0)


@pytest.mark.parametrize("decay", [1.4, 3.0])
def test_a_larger_decay_smooths_the_plasma_by_its_square_per_level(decay):
    """Second differences of the last level's noise against those one level up."""
    fields = [plasma(256, decay, _rng(str(i))).astype(np.float64) for i in range(6)]
    fine, coarse = (
        [
            np.std(
                f[1::2, 1::2]
                - (
                    f[:-1:2, :-1:2]
                    + np.roll(f, -2, 0)[::2, ::2]
                    + np.roll(f, -2, 1)[::2, ::2]
                    + np.roll(f, (-2, -2), (0, 1))[::2, ::2]
                )
                / 4
            )
            for f in group
        ]
        for group in (fields, [f[::2, ::2] for f in fields])
    )
    assert np.mean(coarse) / np.mean(fine) == pytest.approx(decay**2, rel=0.1)


def test_snow_without_flakes_whitens_and_with_flakes_falls_both_ways():
    image = _flat(100)
    no_flakes = Snow(0.0, 0.0, 1, 0.5, 10, 4, 0.8)
    assert (weather.snow(image, no_flakes, _Fixed(-90.0)) == math.floor(0.8 * 100 + 0.2 * (150 + 127.5))).all()
    everywhere = Snow(0.1, 0.0, 1, 0.05, 10, 4, 1.0)
    assert (weather.snow(image, everywhere, _Fixed(-90.0)) == 100 + 2 * round(0.1 * 255)).all()


def test_spatter_without_drops_is_the_image():
    image = gradient()
    for mud in (False, True):
        assert np.array_equal(weather.spatter(image, Spatter(0.1, 0.0, 1, 0.7, 0.5, mud), _rng()), image)


def test_mud_is_brown_and_water_adds_its_colour_in_rgb_order():
    mud = weather.spatter(_flat(200), Spatter(0.9, 0.0, 1, 0.7, 1.5, True), _Fixed())
    assert (mud == [63, 42, 20]).all()
    added = weather.spatter(_flat(10, 120, 160), constants("spatter", 1), _rng("w")).astype(int) - 10
    strongest = added[np.unravel_index(added[..., 1].argmax(), added.shape[:2])]
    assert strongest.tolist() == [math.floor(10 + 0.6 * c) - 10 for c in (175, 238, 238)]


def test_glass_and_motion_of_a_flat_image_leave_it_flat():
    assert abs(blur.glass_blur(_flat(90), Glass(1, 2, 3), _rng()).astype(int) - 90).max() <= 1
    assert abs(blur.motion_blur(_flat(90, 64, 64), Motion(10, 3), _rng()).astype(int) - 90).max() <= 1
