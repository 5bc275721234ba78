"""Brightness to JPEG by hand, by `colorsys` and by Pillow."""

from __future__ import annotations

import colorsys
from io import BytesIO

import numpy as np
import pytest
from PIL import Image as PILImage

from qreg_yolo.corrupt import constants, digital, draws_for
from qreg_yolo.corrupt.spec import Elastic, Pixelate, Saturate
from tests.corrupt.synthetic_images import blocks, gradient, texture


def _rng(key="x"):
    return draws_for(0, key, "test", 1)


def _flat(level):
    return np.full((40, 48, 3), level, np.uint8)


def test_brightness_and_saturation_equal_colorsys():
    image = blocks()[::7, ::7]
    rows = [tuple(int(v) / 255 for v in pixel) for pixel in image.reshape(-1, 3)]
    for delta in (0.1, 0.3, 0.5):
        expected = [colorsys.hsv_to_rgb(h, s, min(v + delta, 1)) for h, s, v in (colorsys.rgb_to_hsv(*r) for r in rows)]
        got = digital.brightness(np.ascontiguousarray(image), delta, _rng()).reshape(-1, 3)
        assert abs(got - 255 * np.array(expected)).max() <= 1
    for c in (Saturate(0.3, 0), Saturate(2, 0), Saturate(20, 0.2)):
        expected = [
            colorsys.hsv_to_rgb(h, min(s * c.gain + c.offset, 1), v)
            for h, s, v in (colorsys.rgb_to_hsv(*r) for r in rows)
        ]
        got = digital.saturate(np.ascontiguousarray(image), c, _rng()).reshape(-1, 3)
        assert abs(got - 255 * np.array(expected)).max() <= 1.001


def test_saturation_reddens_grey():
    assert digital.saturate(_flat(128), Saturate(20, 0.2), _rng())[0, 0].tolist() == [128, 102, 102]
    assert not digital.saturate(_flat(0), Saturate(20, 0.2), _rng()).any()


def test_contrast_draws_each_channel_to_its_own_mean():
    image = np.zeros((32, 32, 3), np.uint8)
    image[:16] = [101, 201, 41]
    result = digital.contrast(image, 0.1, _rng())
    assert result[0, 0].tolist() == [55, 110, 22]
    assert result[-1, -1].tolist() == [45, 90, 18]


def test_pixelate_is_a_box_mean_and_its_nearest_neighbour():
    image = np.repeat(np.arange(0, 160, 4, dtype=np.uint8)[None, :, None], 40, 0).repeat(3, 2)
    result = digital.pixelate(image, Pixelate(0.25, nearest=True), _rng())
    assert result[0, :, 0].tolist() == [level for k in range(10) for level in [16 * k + 6] * 4]


def test_jpeg_is_pillows():
    buffer = BytesIO()
    PILImage.fromarray(texture()).save(buffer, "JPEG", quality=15)
    assert np.array_equal(digital.jpeg_compression(texture(), 15, _rng()), np.array(PILImage.open(buffer)))


def test_elastic_displaces_by_the_deviation_of_the_original():
    """Expected values: measured on the original (500 x 375), in px."""
    ramp = np.repeat(np.arange(240, dtype=np.uint8)[:, None, None], 320, 1).repeat(3, 2)
    for severity, expected in ((1, 0.87), (3, 1.47), (5, 2.08)):
        moved = digital.elastic_transform(ramp, constants("elastic_transform", severity), _rng("e")).astype(float)
        assert (moved + 0.5 - ramp)[20:-20].std() == pytest.approx(expected, rel=0.2)


def test_elastic_without_anything_is_the_image():
    assert np.array_equal(digital.elastic_transform(gradient(), Elastic(0, (0, 0), affine=0.0), _rng()), gradient())
