"""Properties of all 19: any size and layout, inputs unchanged, a higher severity changes more."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qreg_yolo.corrupt import DETERMINISTIC_NAMES, NAMES, PRESETS, SEVERITIES, FrostOverlays, corrupt
from tests.corrupt.golden import psnr
from tests.corrupt.synthetic_images import IMAGES, blocks, texture

names = pytest.mark.parametrize("name", NAMES)
FROST = FrostOverlays((blocks(), texture()), "test")


@names
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_shape_type_and_input_are_kept(name, data):
    shape = data.draw(st.tuples(st.integers(32, 90), st.integers(32, 90)))
    shape += data.draw(st.sampled_from([(), (3,)]))
    seed = data.draw(st.integers(0, 2**70))
    image = np.random.Generator(np.random.PCG64(seed)).integers(0, 256, shape, dtype=np.uint8)
    before = image.copy()
    severity, preset = data.draw(st.sampled_from(SEVERITIES)), data.draw(st.sampled_from(["imagenet224", "tiny64"]))
    arguments = {"seed": seed, "key": data.draw(st.text(max_size=5)), "preset": preset, "frost": FROST}
    result = corrupt(image, name, severity, **arguments)
    assert (result.shape, result.dtype) == (image.shape, np.uint8)
    assert result.flags.c_contiguous
    assert not np.shares_memory(result, image)
    assert np.array_equal(image, before)
    assert np.array_equal(result, corrupt(image, name, severity, **arguments))


@pytest.mark.parametrize("preset", PRESETS)
@names
def test_the_smallest_image_works_at_every_severity(name, preset):
    for severity in SEVERITIES:
        assert corrupt(texture(32, 32), name, severity, preset=preset, frost=FROST).shape == (32, 32, 3)


BLACK_STAYS = set(NAMES) - {
    "impulse_noise",
    "gaussian_noise",
    "snow",
    "frost",
    "brightness",
    "spatter",
    "jpeg_compression",
}


@names
def test_black_and_white_images_work(name):
    for severity in SEVERITIES:
        assert corrupt(np.full((40, 36, 3), 255, np.uint8), name, severity, frost=FROST).any()
        black = corrupt(np.zeros((40, 36, 3), np.uint8), name, severity, frost=FROST)
        assert name not in BLACK_STAYS or not black.any()


@names
def test_memory_layout_does_not_matter(name):
    image = texture(70, 60)
    plain = corrupt(image, name, 3, frost=FROST)
    wide = np.zeros((140, 180, 4), np.uint8)
    wide[::2, ::-3, :3] = image
    frozen = np.asfortranarray(image)
    frozen.flags.writeable = False
    for same in (wide[::2, ::-3, :3], frozen):
        assert np.array_equal(same, image)
        assert np.array_equal(corrupt(same, name, 3, frost=FROST), plain)


@names
def test_a_grey_image_is_the_green_channel_of_its_rgb(name):
    grey = texture()[..., 0]
    rgb = corrupt(np.repeat(grey[..., None], 3, axis=2), name, 2, key="g", frost=FROST)
    assert np.array_equal(corrupt(grey, name, 2, key="g", frost=FROST), rgb[..., 1])


@names
def test_the_key_matters_for_those_that_draw_and_for_no_other(name):
    image = texture(64, 80)
    results = [corrupt(image, name, 5, key=f"{i}.jpg", frost=FROST) for i in range(3)]
    equal = [np.array_equal(results[0], other) for other in results[1:]]
    assert equal == [name in DETERMINISTIC_NAMES] * 2


KNOWN_INVERSIONS = {
    ("snow", 2),
    ("saturate", 2),
    ("glass_blur", 1),
    ("glass_blur", 3),
    ("glass_blur", 4),
    ("zoom_blur", 2),
    ("zoom_blur", 4),
    ("pixelate", 2),
    ("fog", 3),
    ("fog", 4),
}
"""(name, severity) after which the peer's own golden statistics have a higher PSNR on one of the images."""


@pytest.mark.parametrize("title", IMAGES)
@pytest.mark.parametrize("name", [n for n in NAMES if n != "frost"])
def test_a_higher_severity_is_further_from_the_image(name, title):
    image = IMAGES[title]()
    draws = 1 if name in DETERMINISTIC_NAMES else 12
    means = [np.mean([psnr(corrupt(image, name, s, key=f"s{i}"), image) for i in range(draws)]) for s in SEVERITIES]
    rises = {(name, s) for s, (mild, strong) in enumerate(pairwise(means), 1) if strong > mild}
    assert rises <= KNOWN_INVERSIONS


@pytest.mark.parametrize("shape", [(8, 8, 3), (31, 500), (500, 31, 3)])
def test_too_small_an_image_is_refused_with_its_size(shape):
    with pytest.raises(ValueError, match=rf"{shape[1]} x {shape[0]} px .* need 32 px or more"):
        corrupt(np.zeros(shape, np.uint8), "fog", 1)


@pytest.mark.parametrize("shape", [(40, 40, 4), (40, 40, 1), (2, 40, 40, 3), (40,)])
def test_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"give \(h, w, 3\) RGB or \(h, w\) grey"):
        corrupt(np.zeros(shape, np.uint8), "fog", 1)


@pytest.mark.parametrize(("image", "kind"), [(np.zeros((40, 40, 3)), "float64"), ([[0]], "list")])
def test_another_type_is_refused(image, kind):
    with pytest.raises(TypeError, match=f"is {kind}: give a NumPy array of uint8"):
        corrupt(image, "fog", 1)
